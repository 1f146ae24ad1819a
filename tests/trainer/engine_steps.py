"""Takes steps through the DeepSpeed engines and in plain PyTorch, on equal networks and images, and records both."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.registry import type_of
from trainer.run_config import RunConfig
from trainer.tasks.base import Batch, Phase, Task

STEPS = 2
SCALE = {"gan": 12.0, "cyclegan": 2.5}
"""The factor by which the initial weights are enlarged, so that the norm of the gradients is much larger than 1."""


@dataclass(frozen=True)
class Case:
    """A task, a ZeRO stage, a number of micro-batches and a precision."""

    task: str
    optimizer: str
    stage: int = 0
    accumulation: int = 1
    precision: str = "fp32"
    clip_norm: float | None = None

    def __str__(self) -> str:
        clipped = f"-clip{self.clip_norm:g}" if self.clip_norm else ""
        return f"{self.task}-{self.optimizer}-zero{self.stage}-x{self.accumulation}-{self.precision}{clipped}"


CASES = [Case(*choice) for choice in itertools.product(("gan", "cyclegan"), ("sgd", "adam"), (0, 1, 2), (1, 2))] + [
    *(Case(task, "adam", 0, accumulation, "bf16") for task in ("gan", "cyclegan") for accumulation in (1, 2)),
    *(Case("cyclegan", "sgd", stage, 2, "fp32", 0.5) for stage in (0, 1, 2)),
]

_TASKS: dict[str, dict[str, Any]] = {
    "gan": {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4, "norm": "none"},
    },
    "cyclegan": {
        "generator": {"type": "resnet_generator", "width": 4, "blocks": 1, "norm": "batch"},
        "discriminator": {"type": "patchgan_discriminator", "width": 4, "layers": 1},
    },
}


def _config(case: Case, folder: str) -> RunConfig:
    optimizer = {"type": case.optimizer, "lr": 0.001, "clip_norm": case.clip_norm}
    task = {"type": case.task, **_TASKS[case.task]}
    data = {
        "gan": {"type": "digits", "size": 16},
        "cyclegan": {"type": "unpaired", "root": f"{folder}/textures", "size": 16},
    }
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused", "total_images": 40},
            "batch": {"global_size": 4, "accumulation": case.accumulation},
            "data": data[case.task],
            "task": task | {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer},
            "precision": case.precision,
            "deepspeed": {"zero_optimization": {"stage": case.stage}} if case.stage else {},
        }
    )


def _task(config: RunConfig) -> Task:
    from trainer.tasks.build import build_task

    task = build_task(config)
    scale = SCALE[type_of(config.task)]
    with torch.no_grad():
        for parameter in task.networks.parameters():
            parameter.mul_(scale)
    return task


def _batches(config: RunConfig) -> list[list[Batch]]:
    from trainer.loader import Loader, Worker
    from trainer.tasks.build import build_dataset, build_task

    prepare = partial(build_task(config).prepare, seed=config.run.seed)
    loader = Loader(build_dataset(config), prepare, config.batch, Worker(), device=torch.device("cpu"))
    steps = loader.steps(0)
    taken = [next(steps) for _ in range(STEPS)]
    steps.close()
    return taken


def _flat(task: Task) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()
        for name, network in task.networks.items()
    }


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: after[name] - before[name] for name in before}


def _through_deepspeed(config: RunConfig) -> list[dict[str, torch.Tensor]]:
    from trainer.engine import PlayerEngines

    task = _task(config)
    engines = PlayerEngines(task, config, torch.device("cpu"))
    moves = []
    for batches in _batches(config):
        before = _flat(task)
        for phase in task.phases:
            engines.step(phase, batches, 0.0)
        moves.append(_moved(before, _flat(task)))
    return moves


def _in_plain_torch(config: RunConfig, case: Case) -> tuple[list[dict[str, torch.Tensor]], dict[str, float]]:
    """Take the steps in plain PyTorch; only the losses are the task's."""
    task = _task(config)
    parameters = {
        phase: [p for name in phase.networks for p in task.networks[name].parameters()] for phase in task.phases
    }
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[case.optimizer]
    keys: dict[str, Any] = {"betas": (0.5, 0.999)} if case.optimizer == "adam" else {}
    optimizers = {phase: kind(parameters[phase], lr=0.001, **keys) for phase in task.phases}
    moves, norms = [], {}
    for batches in _batches(config):
        before = _flat(task)
        for phase in task.phases:
            task.networks.zero_grad()
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
                    total = task.losses(phase, batch).total
                (total / len(batches)).backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters[phase] if p.grad is not None])
            norms.setdefault(phase.name, float(norm))
            if case.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters[phase], case.clip_norm)
            optimizers[phase].step()
        moves.append(_moved(before, _flat(task)))
    return moves, norms


def _plain(value: object) -> object:
    """Return the plain data of a configuration object, with None for other values."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Enum | torch.dtype):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump())
    if hasattr(value, "__dict__"):
        return {key: _plain(entry) for key, entry in sorted(vars(value).items()) if not key.startswith("_")}
    return str(type(value).__name__)


# What says where a process runs, and what zorse never uses.
_OMITTED = {"mesh_device", "mpu", "elastic_batch", "global_rank", "world_size", "nebula_config", "monitor_config"}


def _configurations(folder: str) -> str:
    from trainer.engine import PlayerEngines

    configurations = {}
    for stage in (0, 1, 2):
        config = _config(Case("gan", "adam", stage), folder)
        engines = PlayerEngines(_task(config), config, torch.device("cpu"))
        engine = engines._engines[("G",)]
        settings = {key: _plain(value) for key, value in vars(engine._config).items() if key not in _OMITTED}
        configurations[f"zero{stage}"] = {key: value for key, value in settings.items() if not key.startswith("_")}
    return json.dumps(configurations, indent=1, sort_keys=True)


def _lazy(folder: str) -> dict[str, Any]:
    """Train three phases, of which two train the discriminator. Return the number of engines and of their steps."""
    from trainer.engine import PlayerEngines

    config = _config(Case("gan", "sgd"), folder)
    task = _task(config)
    extra = Phase("regularise", ("D",), interval=2)
    task.phases = (*task.phases, extra)
    original = task.losses
    task.losses = lambda phase, batch: original(task.phases[0] if phase is extra else phase, batch)  # type: ignore[method-assign]
    engines = PlayerEngines(task, config, torch.device("cpu"))
    for number, batches in enumerate(_batches(config)):
        for phase in task.phases:
            if number % phase.interval == 0:
                engines.step(phase, batches, 0.0)
    steps = {networks[0]: engine.global_steps for networks, engine in engines._engines.items()}
    return {"engines": len(engines._engines), "steps": steps}


def _dtypes(folder: str) -> dict[str, list[str]]:
    from trainer.engine import PlayerEngines

    config = _config(Case("cyclegan", "adam", 0, 1, "bf16"), folder)
    task = _task(config)
    computed: set[str] = set()
    for module in task.networks.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: computed.add(str(output.dtype)))
    losses: set[str] = set()
    original = task.losses

    def watched(phase: Phase, batch: Batch) -> Any:
        outcome = original(phase, batch)
        losses.update(str(value.dtype) for value in (outcome.total, *outcome.logged.values()))
        return outcome

    task.losses = watched  # type: ignore[method-assign]
    engines = PlayerEngines(task, config, torch.device("cpu"))
    (batches, *_) = _batches(config)
    for phase in task.phases:
        engines.step(phase, batches, 0.0)
    state = engines.optimizer_state()
    buffers = {name: buffer for name, buffer in task.networks.named_buffers() if "running" in name}
    assert buffers
    return {
        "losses": sorted(losses),
        "parameters": sorted({str(p.dtype) for p in task.networks.parameters()}),
        "optimizer": sorted({str(value.dtype) for value in state.values()}),
        "statistics": sorted({str(buffer.dtype) for buffer in buffers.values()}),
        "convolutions": sorted(computed),
    }


def record_cases(folder: str) -> None:
    """Take the steps of every case, and write the results to `recorded.pt`."""
    recorded: dict[str, Any] = {}
    for case in CASES:
        config = _config(case, folder)
        plain, norms = _in_plain_torch(config, case)
        recorded[str(case)] = {"engine": _through_deepspeed(config), "torch": plain, "gradient_norms": norms}
    recorded["configurations"] = _configurations(folder)
    recorded["lazy"] = _lazy(folder)
    recorded["dtypes"] = _dtypes(folder)
    torch.save(recorded, Path(folder) / "recorded.pt")
