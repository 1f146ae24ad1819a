"""What a resume says about runs from before `clip_norm`, and what running out of memory is called."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.trainer.fitting import Listener
from trainer import registry, run
from trainer.config import RunConfig, Section, find_config, load_config
from trainer.data.digits import Digits
from trainer.errors import ConfigError, LaunchError, is_out_of_memory
from trainer.hooks.base import Update
from trainer.registry import register
from trainer.run import clipping_news


def _resolved(*overrides: str) -> dict[str, Any]:
    return registry.resolved(load_config(find_config("digits"), overrides))


def _from_before() -> dict[str, Any]:
    """The resolved config of a run as it was written before the optimizers had a `clip_norm`."""
    written = copy.deepcopy(_resolved())
    for player in ("generator", "discriminator"):
        del written["task"][f"{player}_optimizer"]["clip_norm"]
    return written


def test_a_resume_of_a_run_from_before_clip_norm_says_that_clipping_ends() -> None:
    (news,) = clipping_news(_from_before(), _resolved())
    assert news == (
        "until now this run's gradients were clipped to a norm of 1, which was DeepSpeed's default, and from now on "
        "they are not: resume with task.generator_optimizer.clip_norm=1 task.discriminator_optimizer.clip_norm=1 to go "
        "on as before"
    )


def test_a_resume_that_clips_as_before_or_never_did_says_nothing() -> None:
    keys = [f"task.{player}_optimizer.clip_norm=1" for player in ("generator", "discriminator")]
    assert clipping_news(_from_before(), _resolved(*keys)) == []
    assert clipping_news(_resolved(), _resolved()) == []
    (news,) = clipping_news(_from_before(), _resolved(keys[0]))
    assert "resume with task.discriminator_optimizer.clip_norm=1 to" in news
    (news,) = clipping_news(_from_before(), _resolved(keys[0], "task.discriminator_optimizer.clip_norm=0.5"))
    assert "from now on they are as clip_norm says" in news


def test_what_a_resume_changes_is_kept_though_the_run_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise LaunchError("Ray does not start here")

    monkeypatch.setattr(run, "launch", fail)
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    written = _from_before()
    written["run"]["dir"] = str(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    shown: list[Update] = []
    config = load_config(find_config("digits"), [f"run.dir={tmp_path}"])
    with pytest.raises(LaunchError):
        run.train(config, resume=True, show=shown.append)
    assert any("gradients were clipped" in event for event in shown[-1].events)
    assert "gradients were clipped" in (tmp_path / "events.jsonl").read_text()


@register("data", "larger_than_memory")
class LargerThanMemory(Digits):
    """Digits for which a GPU has no memory left."""

    class Config(Section):
        size: int = 32
        channels: int = 1

    def __init__(self, config: Config, *, seed: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


def test_exhausted_memory_is_an_error_of_the_config_and_no_lost_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from trainer.loop import fit

    config = RunConfig.model_validate(_resolved() | {"data": {"type": "larger_than_memory"}})
    message = r"a worker's memory \(cpu\) does not hold a step of 16 images: make batch.global_size, data.size or"
    with pytest.raises(ConfigError, match=message):
        fit(config, Listener(), torch.device("cpu"))


def test_other_errors_of_torch_are_not_taken_for_exhausted_memory() -> None:
    for text in (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
