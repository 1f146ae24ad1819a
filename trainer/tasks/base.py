"""What every task gives the loop: networks, phases, losses and samples; it knows nothing of time, files or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from trainer.config import Section


class OptimizerSection(Section):
    """Adam or SGD, with the rate held and then brought to zero in a straight line over the last images.

    `decay_from` is the fraction of the run at which the decay starts; 1 never decays.
    """

    type: Literal["adam", "sgd"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_from: float = 1.0

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` (0 at the start of the run, 1 at its end)."""
        if progress <= self.decay_from or self.decay_from >= 1:
            return self.lr
        return self.lr * max(0.0, (1 - progress) / (1 - self.decay_from))


@dataclass(frozen=True)
class Batch:
    """One worker's part of a step.

    `numbers` (int64 [b], on the CPU) are the images' positions in the run. `images` maps a domain to float32
    [b, c, h, w] in -1..1. `made` carries images from one phase of a step to a later one.
    """

    numbers: Tensor
    images: dict[str, Tensor]
    made: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One player's turn in a step: the networks it trains, every `interval` steps."""

    name: str
    networks: tuple[str, ...]
    interval: int = 1


@dataclass(frozen=True)
class Losses:
    """`total` (scalar) is what the phase minimises; `logged` are detached scalars for people."""

    total: Tensor
    logged: dict[str, Tensor]


class Task(Protocol):
    """A training scheme, constructed as `Class(config, seed=…, global_size=…)` with its networks initialised."""

    networks: nn.ModuleDict
    phases: tuple[Phase, ...]
    domains: tuple[str, ...]
    generators: Mapping[str, str | None]
    """What is averaged (EMA), snapshotted and exported: name in `networks` → direction such as "AtoB"."""

    def optimizer(self, phase: Phase) -> OptimizerSection:
        """The optimiser of the networks that `phase` trains."""

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """The phase's loss on this worker's images, as a mean over them."""

    def samples(self, generators: nn.ModuleDict, images: dict[str, Tensor], count: int) -> Tensor:
        """A picture of progress from fixed codes or fixed images: float32 [rows x columns, c, h, w] in -1..1.

        `generators` hold the weights to show; `images` are held-out ones, [count, c, h, w] per domain.
        """

    def columns(self) -> int:
        """How many images make one row of `samples`."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the task carries from one step to the next (image pools), as tensors."""
