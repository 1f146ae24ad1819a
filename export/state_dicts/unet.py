"""Reads the U-Net generator of pix2pix's PyTorch repository, which CUT's repository shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from export.errors import ImporterError
from export.state_dicts.foreign import ForeignStateDict
from export.state_dicts.moving import Layer, move, norm_of
from trainer.snapshot import Snapshot


def is_unet(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are named as those of this U-Net."""
    return "model.model.0.weight" in tensors


def read_unet(foreign: ForeignStateDict, task: str) -> Snapshot:
    """Return a snapshot of a U-Net of any depth.

    Each level is a sequence within the sequence of the next outer level. In the outermost one, 0 and 3 are convolutions
    and 1 is the next level. In a middle one, 1 and 5 are convolutions, each with a norm after it, and 3 is the next
    level. In the innermost one, 1 and 3 are convolutions, and 4 is a norm.

    Raises:
        ImporterError: it is another network.
    """
    levels = ["model.model"]
    while any(key.startswith(f"{(inner := _next(levels))}.") for key in foreign.tensors):
        levels.append(inner)
    first = foreign.tensors["model.model.0.weight"]
    last = foreign.tensors.get("model.model.3.weight")
    if last is None or last.ndim != 4 or first.ndim != 4:
        raise ImporterError(f"{foreign.path} is no U-Net generator: model.model.3.weight is missing or no layer's")
    layers = list(_unet_layers(levels))
    model: dict[str, Any] = {
        "type": "unet_generator",
        "in_channels": first.shape[1],
        "out_channels": last.shape[1],
        "width": len(first),
        "depth": len(levels),
        "norm": norm_of(foreign, layers),
    }
    return move(foreign, model, layers, task=task, size=2 ** len(levels))


def _next(levels: list[str]) -> str:
    return f"{levels[-1]}.{1 if len(levels) == 1 else 3}.model"


def _unet_layers(levels: list[str]) -> Iterator[Layer]:
    """Yield the layers from the outermost level inwards. Our network has two lists: `down` inwards, `up` outwards."""
    innermost = len(levels) - 1
    yield Layer(("down.0.0", f"{levels[0]}.0"))
    yield Layer((f"up.{innermost}.1", f"{levels[0]}.3"), always_biased=True)
    for level, theirs in enumerate(levels[1:], 1):
        down, up = f"down.{level}", f"up.{innermost - level}"
        if level == innermost:
            yield Layer((f"{down}.1", f"{theirs}.1"))
            yield Layer((f"{up}.1", f"{theirs}.3"), (f"{up}.2", f"{theirs}.4"))
        else:
            yield Layer((f"{down}.1", f"{theirs}.1"), (f"{down}.2", f"{theirs}.2"))
            yield Layer((f"{up}.1", f"{theirs}.5"), (f"{up}.2", f"{theirs}.6"))
