"""The protocol of training tasks, and the types that tasks and the loop exchange."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.config import Resume, Section
from trainer.data.base import DataSpec
from trainer.errors import ConfigError

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """Adam or SGD, with a constant learning rate and an optional linear decay to zero.

    Attributes:
        decay_from: the fraction of the run at which the decay starts; 1 for no decay.
        clip_norm: the largest Euclidean norm of the gradients of all the player's networks together. Larger gradients
            are scaled down to this norm. None for no clipping.
    """

    type: Literal["adam", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0), Resume.MAY_CHANGE] = 2e-4
    betas: Annotated[tuple[Beta, Beta], Resume.MAY_CHANGE] = (0.5, 0.999)
    decay_from: Annotated[float, Field(ge=0, le=1), Resume.MAY_CHANGE] = 1.0
    clip_norm: Annotated[Annotated[float, Field(gt=0)] | None, Resume.MAY_CHANGE] = None

    def rate(self, progress: float) -> float:
        """Return the learning rate at `progress`, which is 0 at the start of the run and 1 at its end."""
        if progress <= self.decay_from or self.decay_from >= 1:
            return self.lr
        return self.lr * max(0.0, (1 - progress) / (1 - self.decay_from))

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of `parameters` at its initial rate, with torch's defaults written out.

        Adam uses torch's fused kernel on CUDA, and a plain loop on the CPU.
        """
        if self.type == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=0, dampening=0, weight_decay=0, nesterov=False)
        return torch.optim.Adam(
            parameters,
            lr=self.lr,
            betas=self.betas,
            eps=1e-8,
            weight_decay=0,
            amsgrad=False,
            maximize=False,
            fused=all(parameter.device.type == "cuda" for parameter in parameters),
        )


@dataclass(frozen=True)
class Batch:
    """One worker's part of a micro-batch.

    Attributes:
        numbers: the examples' numbers in the run, int64 [b], on the CPU.
        images: the images of each domain, float32 [b, c, h, w] in -1..1.
        labels: int64 [b] if the dataset has classes, else None.
        draws: the arrays of `Task.prepare` for the numbers, [b, …] by name.
        weight: the size of this part divided by the mean size of all workers' parts of the step.
        generated: images by domain that one phase of a step leaves for a later phase.
    """

    numbers: Tensor
    images: dict[str, Tensor]
    labels: Tensor | None = None
    draws: dict[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    generated: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One player's turn: every `interval` steps it trains `networks`."""

    name: str
    networks: tuple[str, ...]
    interval: int = 1


@dataclass(frozen=True)
class Losses:
    """The scalars that a phase computes.

    Attributes:
        total: the scalar that the phase minimises.
        logged: detached scalars for the log, by display name.
        realness: by discriminator, the mean `real_probability` of real and of generated images: detached scalars.
    """

    total: Tensor
    logged: dict[str, Tensor]
    realness: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """One network that leaves the run: it is averaged (EMA), snapshotted and exported.

    Attributes:
        model: the typed Config of the network.
        target: the domain whose images the network makes.
        source: the domain whose images the network translates; None for a generator, which decodes latents.
    """

    model: Section
    target: str
    source: str | None = None

    @property
    def direction(self) -> str | None:
        """The pair of domains, such as "AtoB"; None for a generator."""
        return None if self.source is None else f"{self.source}to{self.target}"


class Task(Protocol):
    """A training scheme, constructed as `Class(config, seed=…, global_size=…)` with its networks initialised.

    A task knows nothing of time, files, Ray or DeepSpeed.
    """

    networks: nn.ModuleDict
    phases: tuple[Phase, ...]

    def data(self) -> DataSpec:
        """Return what the task needs of a dataset: domains with sizes and channels, classes, pairs."""

    def prepare(self, numbers: NDArray[np.int64], seed: int) -> dict[str, NDArray[Any]]:
        """Draw what `losses` and `generate` need beside the images, such as latents: arrays [b, …] by name.

        It is a pure function of the example numbers, int64 [b], and of `seed`. The loader calls it in its threads.
        """

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the optimiser of `networks`, one of the sets that phases train."""

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """Compute the losses of `phase` as means over this worker's images."""

    def exports(self) -> dict[str, Export]:
        """Return the networks that leave the run, by their name in `networks`."""

    def generate(self, generators: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        """Generate images of `batch` by domain: float32 [b, c, h, w] in -1..1.

        `generators` are the networks of `exports`, with the weights to use. The sample grids, the watchdog and
        evaluations use this method.
        """

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that one step leaves for the next, such as image pools, of this rank's examples."""

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Restore the part of `state`, the joined states of all ranks, that belongs to `slots` of the global batch."""

    def reseed(self, seed: int) -> None:
        """Make all later draws outside `prepare` from another seed. `prepare` gets its seed with each call."""


def trained_sets(phases: Iterable[Phase]) -> tuple[tuple[str, ...], ...]:
    """Return the distinct sets of networks that `phases` train. Each set has one optimiser, which its phases share.

    Raises:
        ConfigError: two sets overlap, so that a network would have two optimisers.
    """
    sets = tuple(dict.fromkeys(phase.networks for phase in phases))
    for one, other in itertools.combinations(sets, 2):
        if shared := set(one) & set(other):
            raise ConfigError(
                f"phases train {', '.join(one)} and {', '.join(other)}, and {', '.join(sorted(shared))} cannot have "
                "two optimizers: let these phases train the same networks, or none in common"
            )
    return sets


@contextlib.contextmanager
def only_trainable(networks: nn.ModuleDict, names: tuple[str, ...]) -> Iterator[None]:
    """Freeze all networks but `names` in the block: they get no gradients, and their running statistics stay.

    The batch norms of frozen networks still normalise by the batch's statistics, as in training. Parameters that were
    frozen before stay frozen afterwards. Gradients of the other player would make ZeRO-2 fail.
    """
    others = [network for name, network in networks.items() if name not in names]
    frozen = [parameter for network in others for parameter in network.parameters() if parameter.requires_grad]
    norms = [module for network in others for module in network.modules() if _tracks_statistics(module)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True


def _tracks_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.track_running_stats
