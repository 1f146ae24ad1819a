"""Which keys a resume may change, and the error of exhausted memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.trainer.fitting import Listener
from trainer import run
from trainer.config import Section
from trainer.config_files import find_config, load_config
from trainer.data.digits import Digits
from trainer.errors import ConfigError, LaunchError, is_out_of_memory
from trainer.progress_actor import Update
from trainer.registry import register
from trainer.run_config import RunConfig


def _resolved(*overrides: str) -> dict[str, Any]:
    return load_config(find_config("digits"), overrides).model_dump(mode="json")


def _resume(run_folder: Path, *overrides: str) -> list[str]:
    """Resume a run of `digits` that wrote its config to `run_folder`, and return the events before training starts."""

    def fail(*args: object) -> None:
        raise LaunchError("Ray does not start here")

    shown: list[Update] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "launch", fail)
        config = load_config(find_config("digits"), [f"run.dir={run_folder}", *overrides])
        with pytest.raises(LaunchError):
            run.train(config, resume=True, show=shown.append)
    return list(shown[-1].events)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return the folder of a run of `digits` that has a checkpoint and a config."""
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_resolved(f"run.dir={tmp_path}")))
    return tmp_path


def test_resume_writes_its_changes_even_if_the_launch_fails(run_folder: Path) -> None:
    (event,) = _resume(run_folder, "run.log_images=7")
    assert event.startswith("resumed with run.log_images: 1000 -> 7")
    assert "resumed with run.log_images" in (run_folder / "events.jsonl").read_text()
    assert yaml.safe_load((run_folder / "config.yaml").read_text())["run"]["log_images"] == 7


@pytest.mark.parametrize(
    "override",
    [
        "precision=bf16",
        "watchdog.won_margin=0.5",
        "deepspeed.zero_optimization.stage=1",
        "task.generator_optimizer.lr=0.1",
        "task.generator_optimizer.clip_norm=1",
        "task.loss.type=hinge",
    ],
)
def test_resume_may_change_a_marked_key(run_folder: Path, override: str) -> None:
    (event,) = _resume(run_folder, override)
    assert override.partition("=")[0] in event


@pytest.mark.parametrize(
    "override",
    ["run.seed=7", "batch.global_size=8", "task.generator.width=4", "task.generator_optimizer.type=sgd", "ema=null"],
)
def test_resume_refuses_to_change_a_key_without_a_marker(run_folder: Path, override: str) -> None:
    config = load_config(find_config("digits"), [f"run.dir={run_folder}", override])
    with pytest.raises(ConfigError, match=rf"cannot be resumed with {override.partition('=')[0]}"):
        run.train(config, resume=True)


@register("data", "larger_than_memory")
class LargerThanMemory(Digits):
    """A dataset that raises the error of a GPU without free memory."""

    class Config(Section):
        size: int = 32
        channels: int = 1

    def __init__(self, config: Config, *, seed: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


def test_exhausted_memory_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from trainer.loop import fit

    config = RunConfig.model_validate(_resolved() | {"data": {"type": "larger_than_memory"}})
    message = r"a worker's memory \(cpu\) does not hold a step of 16 images: make batch.global_size, data.size or"
    with pytest.raises(ConfigError, match=message):
        fit(config, Listener(), torch.device("cpu"))


def test_is_out_of_memory_accepts_only_errors_of_memory() -> None:
    for text in (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
