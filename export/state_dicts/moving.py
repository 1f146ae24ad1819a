"""Moves the tensors of a foreign state dict, layer by layer, into one of our networks; none may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import OTHER_WAY, ImporterError
from export.state_dicts.checkpoint import Checkpoint
from trainer import registry
from trainer.errors import ConfigError
from trainer.models.norm import Norm

_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"
_Named = tuple[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A convolution and the norm behind it, if any: the prefix of each, in our network and in the file.

    `always_biased` says that the published network gives the convolution a bias whatever its norm is. The others
    have biases all or none; where they have none and ours needs one, it is zero.
    """

    convolution: tuple[str, str]
    norm: tuple[str, str] | None = None
    always_biased: bool = False


def norm_of(checkpoint: Checkpoint, layers: Sequence[Layer]) -> Norm:
    """Which norm the file's network has.

    An instance norm has no tensors that count: it is told by the biases before it, which a network without
    any norm does not have as published.
    """
    if any(f"{layer.norm[1]}.weight" in checkpoint.tensors for layer in layers if layer.norm):
        return "batch"
    return "instance" if _biased(checkpoint, layers) else "none"


def move(checkpoint: Checkpoint, model: dict[str, Any], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The state dict of our network `model`, made of `layers` from the file.

    A bias that an instance norm cancels is left out, and one before a batch norm goes into the norm's mean. Running
    statistics of instance norms, which PyTorch wrote before 0.4, count for nothing.

    Raises:
        ImporterError: `model` cannot be built, or a tensor is missing, left over, of another shape or not finite.
    """
    moving, biased = _Mover(checkpoint, model), _biased(checkpoint, layers)
    for layer in layers:
        ours, theirs = layer.convolution
        moving.put(f"{ours}.weight", *moving.taken(f"{theirs}.weight"))
        bias = moving.taken_bias(ours, f"{theirs}.bias") if biased or layer.always_biased else None
        if moving.wants(f"{ours}.bias"):
            moving.put(f"{ours}.bias", *(bias or moving.zeros(f"{ours}.bias")))
        if layer.norm is not None and model["norm"] == "batch":
            moving.batch_norm(*layer.norm, bias)
        elif layer.norm is not None:
            moving.drop_statistics(layer.norm[1])
    return moving.finished()


def _biased(checkpoint: Checkpoint, layers: Sequence[Layer]) -> bool:
    return any(f"{layer.convolution[1]}.bias" in checkpoint.tensors for layer in layers if not layer.always_biased)


class _Mover:
    """`left` is what the file has and no layer has asked for yet."""

    def __init__(self, checkpoint: Checkpoint, model: dict[str, Any]) -> None:
        self.path, self.left = checkpoint.path, dict(checkpoint.tensors)
        try:
            with torch.device("meta"):
                self._network: nn.Module = registry.build(registry.resolve("model", model))
        except ConfigError as error:
            raise ImporterError(f"{self.path} is a network of a kind that zorse has not: {error}") from error
        self._shapes = {key: tensor.shape for key, tensor in self._network.state_dict().items()}
        self._made: dict[str, Tensor] = {}

    def taken(self, theirs: str) -> _Named:
        """The tensor `theirs` of the file, which must be there, with its key."""
        if theirs not in self.left:
            raise ImporterError(
                f"{self.path} has no {theirs}: it is incomplete or of another architecture: {OTHER_WAY}"
            )
        return theirs, self.left.pop(theirs)

    def taken_bias(self, ours: str, theirs: str) -> _Named:
        """The bias `theirs` of what is our network's convolution `ours`, checked whether ours needs it or not."""
        convolution = self._network.get_submodule(ours)
        assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
        key, bias = self.taken(theirs)
        return key, self._sound(key, bias, torch.Size([convolution.out_channels]))

    def wants(self, ours: str) -> bool:
        """Whether our network has `ours`."""
        return ours in self._shapes

    def zeros(self, ours: str) -> _Named:
        """What stands for `ours` where the file has nothing."""
        return ours, torch.zeros(self._shapes[ours])

    def put(self, ours: str, theirs: str, tensor: Tensor) -> None:
        """Make `tensor`, called `theirs` in errors, our network's `ours`."""
        self._made[ours] = self._sound(theirs, tensor, self._shapes[ours])

    def _sound(self, theirs: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """`tensor`, if it has the `shape` and is finite."""
        if tensor.shape != shape:
            raise ImporterError(
                f"{self.path}: {theirs} has the shape {list(tensor.shape)} where the others need {list(shape)}: it is "
                "not the generator as published"
            )
        if not (tensor.is_floating_point() or theirs.endswith(_COUNT)):
            raise ImporterError(f"{self.path}: {theirs} is {tensor.dtype}: import the weights in floating point")
        if not tensor.isfinite().all():
            raise ImporterError(f"{self.path}: {theirs} is not finite everywhere: take an earlier checkpoint")
        return tensor.contiguous()

    def batch_norm(self, ours: str, theirs: str, bias: _Named | None) -> None:
        """Move a batch norm and, with it, the `bias` before it."""
        for name in ("weight", "bias", *_STATISTICS):
            self.put(f"{ours}.{name}", *self.taken(f"{theirs}.{name}"))
        if bias is not None:
            mean = self._made[f"{ours}.running_mean"]
            self._made[f"{ours}.running_mean"] = mean - bias[1]
        count = self.left.pop(f"{theirs}.{_COUNT}", torch.tensor(0))  # PyTorch has it since 0.4.1
        self.put(f"{ours}.{_COUNT}", f"{theirs}.{_COUNT}", count)

    def drop_statistics(self, theirs: str) -> None:
        """Forget what an instance norm may have recorded."""
        for name in (*_STATISTICS, _COUNT):
            self.left.pop(f"{theirs}.{name}", None)

    def finished(self) -> dict[str, Tensor]:
        """Our network's state dict, if nothing is left of the file's."""
        if self.left:
            first, *others = self.left
            more = f" and {len(others)} more" if others else ""
            what = f"{self.path} has {first}{more}, which the published generator has not"
            raise ImporterError(f"{what}: {OTHER_WAY}")
        return self._made
