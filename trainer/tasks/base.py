"""What every task gives the loop: networks, phases, losses and samples; it knows nothing of time, files or Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """Adam or SGD, with the rate held and then brought to zero in a straight line over the last images.

    `decay_from` is the fraction of the run at which the decay starts; 1 never decays.
    """

    type: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=2e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    decay_from: float = Field(default=1.0, ge=0, le=1)

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` (0 at the start of the run, 1 at its end)."""
        if progress <= self.decay_from or self.decay_from >= 1:
            return self.lr
        return self.lr * max(0.0, (1 - progress) / (1 - self.decay_from))

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of `parameters`, at its starting rate."""
        if self.type == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr)
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


@dataclass(frozen=True)
class Batch:
    """One worker's part of a micro-batch.

    `numbers` (int64 [b], on the CPU) are the images' positions in the run. `images` maps a domain to float32
    [b, c, h, w] in -1..1. `weight` is the part's size over the mean size of all workers' parts in the step.
    `made` carries images from one phase of a step to a later one.
    """

    numbers: Tensor
    images: dict[str, Tensor]
    weight: float = 1.0
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

    def made(self, generators: nn.ModuleDict, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `generators` make, by the domain it should look like: from fixed codes, or from `images` of the domains.

        Images are float32 [n, c, h, w] in -1..1, as many as there are in `images`.
        """

    def columns(self) -> int:
        """How many images make one row of `samples`."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the task carries from one step to the next for this rank's images (image pools), as tensors."""

    def load_state(self, state: Mapping[str, torch.Tensor], slots: Collection[int]) -> None:
        """Take over what the ranks' `state` gave, as far as it belongs to `slots` of the global batch."""

    def reseed(self, seed: int) -> None:
        """Draw latents and swaps from another seed from now on."""


@contextlib.contextmanager
def only_trainable(networks: nn.ModuleDict, names: tuple[str, ...]) -> Iterator[None]:
    """Let gradients reach the weights of `names` alone: left-over ones of the other player crash ZeRO-2."""
    for name, network in networks.items():
        network.requires_grad_(name in names)
    try:
        yield
    finally:
        networks.requires_grad_(True)
