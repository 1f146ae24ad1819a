"""Design, decision 7: a resumed run equals an uninterrupted one, on any number of workers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.fitting import Job, checkpoint, events, fit_ranks, metrics
from tests.trainer.textures import write_textures
from trainer.loader import parts_of_step
from trainer.run_config import BatchSection

BATCH, HALF, WHOLE = 4, 16, 28
TIMES = {"seconds", "performance"}
ADAM = {"lr": 0.001, "decay_from": 0.3}


def _config(task: dict[str, Any], data: dict[str, Any], stage: int = 0) -> dict[str, Any]:
    return {
        "run": {"total_images": WHOLE, "log_images": BATCH, "checkpoint_images": WHOLE},
        "batch": {"global_size": BATCH},
        "data": data,
        "task": task | {"generator_optimizer": ADAM, "discriminator_optimizer": ADAM},
        "ema": {"half_life_images": 8},
        "deepspeed": {"zero_optimization": {"stage": stage}} if stage else {},
    }


def _gan(stage: int = 0) -> dict[str, Any]:
    generator = {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4}
    discriminator = {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4}
    task = {"type": "gan", "generator": generator, "discriminator": discriminator}
    return _config(task, {"type": "digits", "size": 16}, stage)


def _cyclegan() -> dict[str, Any]:
    generator = {"type": "resnet_generator", "width": 4, "blocks": 1}
    discriminator = {"type": "patchgan_discriminator", "width": 4, "layers": 1}
    # Six images in four slots: swaps happen before and after the stop.
    task = {"type": "cyclegan", "generator": generator, "discriminator": discriminator, "pool_size": 6}
    return _config(task, {"type": "unpaired", "root": "textures", "size": 16})


CONFIGS = {"gan": _gan(), "cyclegan": _cyclegan(), "gan-zero1": _gan(1), "gan-zero2": _gan(2)}


def _at(name: str, folder: Path) -> dict[str, Any]:
    config = CONFIGS[name]
    if "root" in config["data"]:
        config = config | {"data": config["data"] | {"root": str(folder.parents[1] / "textures")}}
    return config | {"run": config["run"] | {"dir": str(folder)}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs of each config: `whole`; `resumed` (stopped at `HALF`); `half` on 1 and 3 workers."""
    folder = tmp_path_factory.mktemp("runs")
    write_textures(folder / "textures")
    jobs = []
    for name in CONFIGS:
        jobs += [
            Job(_at(name, folder / name / "whole"), gradients_at=HALF // BATCH),
            Job(_at(name, folder / name / "half"), stop_at=HALF),
        ]
    fit_ranks(jobs, 2)
    for name in CONFIGS:
        for other in ("resumed", "on-1", "on-3"):
            shutil.copytree(folder / name / "half", folder / name / other)
    fit_ranks([Job(_at(name, folder / name / "resumed")) for name in CONFIGS], 2)
    # And the reverse: begun on one worker, gone on with on two.
    lone = [_at(name, folder / name / "lone") for name in CONFIGS]
    begun = [_at(name, folder / name / "begun") for name in CONFIGS]
    fit_ranks([Job(c, gradients_at=HALF // BATCH) for c in lone] + [Job(c, stop_at=HALF) for c in begun], 1)
    fit_ranks([Job(c, only_restore=True) for c in begun] + [Job(c, gradients_at=0) for c in begun], 2)
    for workers in (1, 3):
        places = [_at(name, folder / name / f"on-{workers}") for name in CONFIGS]
        jobs = [Job(place, only_restore=True) for place in places] + [Job(place, gradients_at=0) for place in places]
        fit_ranks(jobs, workers)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_run(runs: Path, name: str) -> None:
    whole, resumed = (checkpoint(runs / name / run, WHOLE) for run in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    figures = [
        {seen: {k: v for k, v in line.items() if k not in TIMES} for seen, line in lines.items()}
        for lines in (metrics(runs / name / "whole"), metrics(runs / name / "resumed"))
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_stopped_run_has_a_checkpoint_at_the_step_of_the_request(runs: Path, name: str) -> None:
    assert [path.name for path in (runs / name / "half" / "checkpoints").iterdir()] == [f"{HALF:012d}"]
    whole, half = checkpoint(runs / name / "whole", WHOLE), checkpoint(runs / name / "half", HALF)
    assert [key for key in half if torch.equal(half[key], whole[key]) and key.startswith("networks/")] == []


def _relative_difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one.double() - two.double()).norm() / one.double().norm().clamp_min(1e-30))


@pytest.mark.slow
@pytest.mark.parametrize(("undisturbed", "resumed"), [("whole", "on-1"), ("whole", "on-3"), ("lone", "begun")])
@pytest.mark.parametrize("name", ["gan", "cyclegan"])
def test_resume_on_other_workers_takes_the_same_next_step(
    runs: Path, name: str, undisturbed: str, resumed: str
) -> None:
    whole, other = runs / name / undisturbed, runs / name / resumed
    gradients = [torch.load(run / "gradients.pt", weights_only=True) for run in (whole, other)]
    pairs = [pair for players in zip(*gradients, strict=True) for pair in zip(*players, strict=True)]
    assert len(gradients[0]) == 2
    assert max(_relative_difference(one, two) for one, two in pairs) <= 1e-5
    next_line = [metrics(run)[HALF + BATCH] for run in (whole, other)]
    first, then = (line["figures"] for line in next_line)
    assert then == pytest.approx(first, rel=1e-5)
    for (one, two), (other_one, other_two) in zip(*(line["realness"].values() for line in next_line), strict=True):
        assert (other_one, other_two) == pytest.approx((one, two), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["on-1", "on-3", "begun"])
@pytest.mark.parametrize("name", CONFIGS)
def test_resume_on_other_workers_restores_the_whole_checkpoint(runs: Path, name: str, resumed: str) -> None:
    held = load_file(runs / name / resumed / "restored.safetensors")
    saved = checkpoint(runs / name / resumed, HALF)
    assert held.keys() == saved.keys()
    assert [key for key in saved if not torch.equal(saved[key], held[key])] == []
    pools = {"task"} if name == "cyclegan" else set()
    assert {key.split("/")[0] for key in saved} == {"networks", "optimizer", "ema"} | pools


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_resume_on_other_workers_reports_where_it_continues(runs: Path, name: str, workers: int) -> None:
    *facts, where, speed = events(runs / name / f"on-{workers}")
    assert [fact.split(":")[0] for fact in facts] == ["data"] * len(facts) != []
    assert speed.startswith("speed: ")
    assert where == (f"training from image {HALF} on with {workers} workers on cpu")


def test_resume_keeps_the_images_of_each_pool_slot() -> None:
    batch = BatchSection(global_size=BATCH)
    for workers in (1, 2, 3):
        for rank in range(workers):
            first, later = (
                {number % BATCH for part in parts_of_step(seen, batch, workers, rank) for number in part}
                for seen in (0, HALF)
            )
            assert first == later
