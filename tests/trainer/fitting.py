"""Runs `fit` on W ranks over gloo, without Ray: whole, stopped and resumed runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.trainer.ranks import spawn
from trainer.metric_lines import read_parts
from trainer.progress_actor import RunAction
from trainer.run_config import RunConfig
from zorse_common.storage import Storage


@dataclass(frozen=True)
class Job:
    """A run to fit from its newest checkpoint, if it has one.

    Attributes:
        stop_at: the run is stopped once it has seen so many images.
        gradients_at: the step, counted in this job, whose gradients are written to the run's `gradients.pt`.
        only_restore: do not train, but restore the checkpoint and write the state to `restored.safetensors`.
    """

    config: dict[str, Any]
    stop_at: int | None = None
    gradients_at: int | None = None
    only_restore: bool = False


class Listener:
    """A `Reporter` that keeps the events, and requests a stop at `stop_at` images."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[str] = []
        self.reason = ""
        self._stop_at = stop_at
        self._seen = 0

    def progress(self, seen: int, metrics: dict[str, float]) -> None:
        self._seen = seen

    def event(self, message: str) -> None:
        self.events.append(message)

    def stop_reason(self, reason: str) -> None:
        self.reason = reason

    def stop_requested(self) -> bool:
        return self._stop_at is not None and self._seen >= self._stop_at


def fit_ranks(jobs: list[Job], workers: int) -> None:
    """Fit one job after the other on `workers` processes."""
    spawn(_fit_all, workers, jobs)


def checkpoint(run: Path, seen: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's checkpoint."""
    return load_file(run / "checkpoints" / f"{seen:012d}" / "state.safetensors")


def metrics(run: Path) -> dict[int, dict[str, float]]:
    """Return the lines of figures by images seen."""
    lines = [line for _, part in read_parts(Storage(str(run))) for line in part]
    return {line["images"]: line for line in lines}


def events(run: Path) -> list[str]:
    """Return the events of the run's last job on rank 0."""
    lines: list[str] = json.loads((run / "events.json").read_text())
    return lines


def action(run: Path) -> RunAction:
    """Return how the run's last job ended."""
    return RunAction(int((run / "action.txt").read_text()))


def _fit_all(jobs: list[Job]) -> None:
    for job in jobs:
        _fit(job, dist.get_world_size())


def _fit(job: Job, workers: int) -> None:
    from trainer.loop import fit, prepare

    config = RunConfig.model_validate(job.config | {"run": job.config["run"] | {"workers": workers}})
    listener, device, folder = Listener(job.stop_at), torch.device("cpu"), Path(config.run.dir)
    if job.only_restore:
        training = prepare(config, listener, device)
        tensors = training.state.state_dict(training.ranks)
        if tensors:
            save_file(tensors, folder / "restored.safetensors")
        return
    gradients = _Gradients(job.gradients_at)
    ended = fit(config, listener, device)
    gradients.close()
    if dist.get_rank() == 0:
        torch.save(gradients.kept, folder / "gradients.pt")
        (folder / "action.txt").write_text(str(int(ended)))
        (folder / "reason.txt").write_text(listener.reason)
        (folder / "events.json").write_text(json.dumps(listener.events))


class _Gradients:
    """Keeps each optimiser's gradients at its step number `step`, in the order of its parameters."""

    def __init__(self, step: int | None) -> None:
        self.kept: list[list[torch.Tensor]] = []
        self._steps: Counter[int] = Counter()
        self._step = step
        self._handle = register_optimizer_step_pre_hook(self._remember)

    def close(self) -> None:
        self._handle.remove()

    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._steps[id(optimizer)] == self._step:
            self.kept.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])
        self._steps[id(optimizer)] += 1
