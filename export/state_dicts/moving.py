"""Moves the tensors of a foreign state dict, layer by layer, into one of our networks, and refuses leftovers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import OTHER_WAY, ImporterError
from export.state_dicts.foreign import ForeignStateDict
from trainer import registry
from trainer.errors import ConfigError
from trainer.models.norm import Norm
from trainer.snapshot import Network, Snapshot

_COUNT = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", _COUNT)


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


def move(
    foreign: ForeignStateDict, model: dict[str, Any], layers: Sequence[Layer], *, task: str, size: int
) -> Snapshot:
    """Return a snapshot of our network `model` with the `layers` of the file; its fields about training stay empty.

    Our convolutions before a norm have no bias. A bias before an instance norm is left out, since the norm cancels it;
    a bias before a batch norm is subtracted from the norm's mean. Running statistics of instance norms, which PyTorch
    wrote before 0.4, are ignored. `size` is the height and width of the training images, in pixels.

    Raises:
        ImporterError: `model` cannot be built, or a tensor is missing, left over, of another shape or not finite.
    """
    network = _built(foreign.path, model)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    tensors, biased = _Tensors(foreign), _biased(foreign, layers)
    weights: dict[str, Tensor] = {}
    for layer in layers:
        ours, theirs = layer.convolution
        weights[f"{ours}.weight"] = tensors.take(f"{theirs}.weight", shapes[f"{ours}.weight"])
        bias = None
        if biased or layer.always_biased:
            convolution = network.get_submodule(ours)
            assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
            bias = tensors.take(f"{theirs}.bias", torch.Size([convolution.out_channels]))
        if f"{ours}.bias" in shapes:
            weights[f"{ours}.bias"] = torch.zeros(shapes[f"{ours}.bias"]) if bias is None else bias
        if layer.norm is not None and model["norm"] == "batch":
            ours, theirs = layer.norm
            tensors.left.setdefault(f"{theirs}.{_COUNT}", torch.tensor(0))  # PyTorch has it since 0.4.1
            for name in ("weight", "bias", *_STATISTICS):
                weights[f"{ours}.{name}"] = tensors.take(f"{theirs}.{name}", shapes[f"{ours}.{name}"])
            if bias is not None:
                weights[f"{ours}.running_mean"] = weights[f"{ours}.running_mean"] - bias
        elif layer.norm is not None:
            for name in _STATISTICS:
                tensors.left.pop(f"{layer.norm[1]}.{name}", None)
    tensors.check_none_left()
    direction = None if task == "gan" else foreign.direction
    return Snapshot(
        name=foreign.name,
        task=task,
        images_seen=0,
        ema=False,
        networks={"G": Network(model, direction, size, source=direction and direction[0])},
        config={},
        weights={"G": weights},
        digest=foreign.digest,
    )


def _biased(foreign: ForeignStateDict, layers: Sequence[Layer]) -> bool:
    return any(f"{layer.convolution[1]}.bias" in foreign.tensors for layer in layers if not layer.always_biased)


def _built(path: Path, model: dict[str, Any]) -> nn.Module:
    """Return our network `model` without memory for its weights; `path` is for messages."""
    try:
        with torch.device("meta"):
            network: nn.Module = registry.build(registry.resolve("model", model))
    except ConfigError as error:
        raise ImporterError(f"{path} is a network that zorse does not have: {error}") from error
    return network


class _Tensors:
    """The tensors of a file; `left` are those that are not taken yet."""

    def __init__(self, foreign: ForeignStateDict) -> None:
        self.path, self.left = foreign.path, dict(foreign.tensors)

    def take(self, key: str, shape: torch.Size) -> Tensor:
        """Remove a tensor from those left, and return it after checking that it has the `shape` and is finite."""
        if key not in self.left:
            raise ImporterError(f"{self.path} has no {key}: it is incomplete or of another architecture: {OTHER_WAY}")
        tensor = self.left.pop(key)
        if tensor.shape != shape:
            raise ImporterError(
                f"{self.path}: {key} has the shape {list(tensor.shape)} where the others need {list(shape)}: it is "
                "not the generator as published"
            )
        if not (tensor.is_floating_point() or key.endswith(_COUNT)):
            raise ImporterError(f"{self.path}: {key} is {tensor.dtype}: import the weights in floating point")
        if not tensor.isfinite().all():
            raise ImporterError(f"{self.path}: {key} is not finite everywhere: take an earlier checkpoint")
        return tensor.contiguous()

    def check_none_left(self) -> None:
        """Raises ImporterError if a tensor of the file was not taken."""
        if self.left:
            first, *others = self.left
            more = f" and {len(others)} more" if others else ""
            raise ImporterError(
                f"{self.path} has {first}{more}, which the published generator does not have: {OTHER_WAY}"
            )
