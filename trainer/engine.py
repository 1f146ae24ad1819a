"""The players' DeepSpeed engines: the only module that knows DeepSpeed.

DeepSpeed does the backward pass, the reduction over ranks and the optimiser's step. The forward pass goes
through the modules themselves: an engine's own forward forbids a loss that crosses two engines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.tasks.base import Batch, OptimizerSection, Phase, Task

DERIVED_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "torch_autocast",
    "amp",
)


def check_deepspeed(section: dict[str, Any]) -> None:
    """Refuse what zorse derives itself or cannot keep its promises with.

    Raises:
        ConfigError: naming the key and what to set instead.
    """
    for key in DERIVED_KEYS:
        if key in section:
            raise ConfigError(f"deepspeed.{key} is set by zorse: use batch.*, precision or the task's optimizers")
    stage = section.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2):
        raise ConfigError(
            f"deepspeed.zero_optimization.stage = {stage}: use 0, 1 or 2; stage 3 shards the weights that "
            "one player's loss reads from the other, and GAN networks are too small to gain from it"
        )


class Players:
    """One DeepSpeed engine for each set of networks that the task's phases train."""

    def __init__(self, task: Task, config: RunConfig, device: torch.device) -> None:
        """Take over the task's networks, which must be equal on all ranks; torch.distributed is initialised."""
        self._task, self._config, self._device = task, config, device
        task.networks.to(device)
        self._engines = {phase.networks: self._start(phase) for phase in task.phases}
        self._autocast = autocast_dtype(config, device)

    def step(self, phase: Phase, batches: list[Batch], progress: float) -> dict[str, Tensor]:
        """One turn of a player over the step's micro-batches; `progress` (0..1) sets the learning rate.

        Returns the phase's logged scalars, as means over the micro-batches of this rank.
        """
        rate = self._task.optimizer(phase).rate(progress)
        for group in self._engines[phase.networks].optimizer.param_groups:
            group["lr"] = rate
        logged = [self._turn(phase, batch) for batch in batches]
        return {name: torch.stack([entry[name] for entry in logged]).mean() for name in logged[0]}

    def _turn(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """One micro-batch: on the step's last one DeepSpeed reduces the gradients and moves the weights."""
        engine = self._engines[phase.networks]
        with only_trainable(self._task.networks, phase.networks):
            with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                losses = self._task.losses(phase, batch)
            engine.backward(losses.total)
        engine.step()
        return losses.logged

    def _start(self, phase: Phase) -> Any:
        player = nn.ModuleDict({name: self._task.networks[name] for name in phase.networks})
        section = self._config.deepspeed
        check_deepspeed(section)
        stage = section.get("zero_optimization", {}).get("stage", 0)
        derived = {
            "train_micro_batch_size_per_gpu": self._config.micro_size,
            "gradient_accumulation_steps": self._config.batch.accumulation,
            "steps_per_print": 2**31,
            "zero_allow_untested_optimizer": stage > 0,
        }
        optimizer = make_optimizer(self._task.optimizer(phase), list(player.parameters()))
        engine, *_ = deepspeed.initialize(
            model=player, optimizer=optimizer, config=section | derived, dist_init_required=False
        )
        return engine


def make_optimizer(section: OptimizerSection, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The PyTorch optimiser that `section` names, at its starting rate."""
    if section.type == "sgd":
        return torch.optim.SGD(parameters, lr=section.lr)
    return torch.optim.Adam(parameters, lr=section.lr, betas=section.betas)


def autocast_dtype(config: RunConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for, or where `precision: auto` finds a GPU that has it; None is float32."""
    automatic = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if config.precision == "bf16" or automatic else None


@contextlib.contextmanager
def only_trainable(networks: nn.ModuleDict, names: tuple[str, ...]) -> Iterator[None]:
    """Let gradients reach the weights of `names` alone: left-over ones of the other player crash ZeRO-2."""
    for name, network in networks.items():
        network.requires_grad_(name in names)
    try:
        yield
    finally:
        networks.requires_grad_(True)
