"""Measures what a run needs, without data or a cluster: shapes, memory, and the losses of one step on zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError, is_out_of_memory
from trainer.run_config import RunConfig
from trainer.tasks.base import only_trainable
from trainer.tasks.build import black_batch, build_task, data_spec

COPIES = {"adam": 4, "sgd": 2}
"""Values in memory for each weight: the weight, its gradient and, with Adam, two moments."""


@dataclass(frozen=True)
class NetworkSize:
    """The number of parameters of one network."""

    name: str
    architecture: str
    parameters: int


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run, for each worker.

    Attributes:
        networks: the networks of the task.
        image_shapes: the shape of the images of each domain in the largest micro-batch, [b, c, h, w].
        state_bytes: bytes of weights, gradients, optimiser states and averages.
        activation_bytes: the most bytes that a phase keeps for its backward pass.
        losses: the logged losses of one step on images of zeros.
    """

    networks: list[NetworkSize]
    image_shapes: dict[str, tuple[int, ...]]
    state_bytes: int
    activation_bytes: int
    losses: dict[str, float]


def dry_run(config: RunConfig) -> DryRun:
    """Build the networks of one worker and run every phase forward and backward on zeros, in this process.

    Raises:
        trainer.errors.ConfigError: a component does not fit its place, or a worker's step does not fit in memory.
    """
    try:
        return _dry_run(config)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "one step does not fit in this machine's memory: make batch.global_size, data.size or a width smaller"
        ) from error


def _dry_run(config: RunConfig) -> DryRun:
    task = build_task(config)
    batch = black_batch(task, data_spec(config), config.micro_size, torch.device("cpu"))
    shapes = {domain: tuple(images.shape) for domain, images in batch.images.items()}
    losses: dict[str, float] = {}
    activations = 0
    weights_of: dict[tuple[str, ...], int] = {}
    for phase in task.phases:
        saved = _Saved(task.networks)
        trained = [p for name in phase.networks for p in task.networks[name].parameters() if p.requires_grad]
        with only_trainable(task.networks, phase.networks):
            with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
                outcome = task.losses(phase, batch)
            torch.autograd.backward(outcome.total)
        task.optimizer(phase.networks).build(trained).step()
        activations = max(activations, saved.bytes)
        losses |= {name: value.item() for name, value in outcome.logged.items()}
        weights = sum(p.numel() * p.element_size() for p in trained)
        weights_of[phase.networks] = weights * COPIES[task.optimizer(phase.networks).type]
    averaged = [p for name in task.exports() for p in task.networks[name].parameters()] if config.ema else []
    networks = [
        NetworkSize(name, type(network).__name__, sum(p.numel() for p in network.parameters()))
        for name, network in task.networks.items()
    ]
    state_bytes = sum(weights_of.values()) + sum(p.numel() * 4 for p in averaged)
    return DryRun(networks, shapes, state_bytes, activations, losses)


class _Saved:
    """Counts the bytes that autograd keeps for the backward pass, each storage once, without the weights."""

    def __init__(self, networks: nn.ModuleDict) -> None:
        self.bytes = 0
        self._storages = {p.untyped_storage().data_ptr(): p.detach() for p in networks.parameters()}

    def keep(self, tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in self._storages:
            self._storages[pointer] = tensor
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor
