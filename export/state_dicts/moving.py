"""Moves the tensors of a foreign state dict, layer by layer, into one of our networks, and refuses leftovers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import OTHER_WAY, ImporterError
from export.state_dicts.foreign import ForeignStateDict
from trainer import registry
from trainer.errors import ConfigError
from trainer.models.norm import Norm

_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"
_Named = tuple[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A convolution and the norm after it, if any; each as a pair of prefixes, in our network and in the file.

    `always_biased` means that the published network gives the convolution a bias with every norm. Of the other
    convolutions all have a bias or none has; if none has and our network needs one, it is zero.
    """

    convolution: tuple[str, str]
    norm: tuple[str, str] | None = None
    always_biased: bool = False


def norm_of(foreign: ForeignStateDict, layers: Sequence[Layer]) -> Norm:
    """Return which norm the file's network has.

    A batch norm has weights. An instance norm has no tensors that matter, but the published networks give biases to the
    convolutions before it, and none to those of a network without norms.
    """
    if any(f"{layer.norm[1]}.weight" in foreign.tensors for layer in layers if layer.norm):
        return "batch"
    return "instance" if _biased(foreign, layers) else "none"


def move(foreign: ForeignStateDict, model: dict[str, Any], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the state dict of our network `model`, with the `layers` of the file.

    Our convolutions before a norm have no bias. A bias before an instance norm is left out, since the norm cancels it;
    a bias before a batch norm is subtracted from the norm's mean. Running statistics of instance norms, which PyTorch
    wrote before 0.4, are ignored.

    Raises:
        ImporterError: `model` cannot be built, or a tensor is missing, left over, of another shape or not finite.
    """
    moving, biased = _Mover(foreign, model), _biased(foreign, layers)
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


def _biased(foreign: ForeignStateDict, layers: Sequence[Layer]) -> bool:
    return any(f"{layer.convolution[1]}.bias" in foreign.tensors for layer in layers if not layer.always_biased)


class _Mover:
    """Moves tensors into our network; `left` are the tensors of the file that are not moved yet."""

    def __init__(self, foreign: ForeignStateDict, model: dict[str, Any]) -> None:
        self.path, self.left = foreign.path, dict(foreign.tensors)
        try:
            with torch.device("meta"):
                self._network: nn.Module = registry.build(registry.resolve("model", model))
        except ConfigError as error:
            raise ImporterError(f"{self.path} is a network that zorse does not have: {error}") from error
        self._shapes = {key: tensor.shape for key, tensor in self._network.state_dict().items()}
        self._moved: dict[str, Tensor] = {}

    def taken(self, theirs: str) -> _Named:
        """Remove the tensor `theirs` from those left, and return it with its key."""
        if theirs not in self.left:
            raise ImporterError(
                f"{self.path} has no {theirs}: it is incomplete or of another architecture: {OTHER_WAY}"
            )
        return theirs, self.left.pop(theirs)

    def taken_bias(self, ours: str, theirs: str) -> _Named:
        """Remove the bias `theirs` of our convolution `ours` from those left; check it even if ours has no bias."""
        convolution = self._network.get_submodule(ours)
        assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
        key, bias = self.taken(theirs)
        return key, self._checked(key, bias, torch.Size([convolution.out_channels]))

    def wants(self, ours: str) -> bool:
        """Return whether our network has a tensor `ours`."""
        return ours in self._shapes

    def zeros(self, ours: str) -> _Named:
        """Return zeros for `ours`, which the file does not have."""
        return ours, torch.zeros(self._shapes[ours])

    def put(self, ours: str, theirs: str, tensor: Tensor) -> None:
        """Set our network's `ours` to `tensor`; `theirs` is its key for messages."""
        self._moved[ours] = self._checked(theirs, tensor, self._shapes[ours])

    def _checked(self, theirs: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Return `tensor` after checking that it has the `shape` and is finite."""
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
        """Move a batch norm; the `bias` before it is subtracted from its mean."""
        for name in ("weight", "bias", *_STATISTICS):
            self.put(f"{ours}.{name}", *self.taken(f"{theirs}.{name}"))
        if bias is not None:
            mean = self._moved[f"{ours}.running_mean"]
            self._moved[f"{ours}.running_mean"] = mean - bias[1]
        count = self.left.pop(f"{theirs}.{_COUNT}", torch.tensor(0))  # PyTorch has it since 0.4.1
        self.put(f"{ours}.{_COUNT}", f"{theirs}.{_COUNT}", count)

    def drop_statistics(self, theirs: str) -> None:
        """Discard the running statistics that an instance norm may have."""
        for name in (*_STATISTICS, _COUNT):
            self.left.pop(f"{theirs}.{name}", None)

    def finished(self) -> dict[str, Tensor]:
        """Return our network's state dict, after checking that no tensor of the file is left."""
        if self.left:
            first, *others = self.left
            more = f" and {len(others)} more" if others else ""
            what = f"{self.path} has {first}{more}, which the published generator does not have"
            raise ImporterError(f"{what}: {OTHER_WAY}")
        return self._moved
