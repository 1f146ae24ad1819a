"""Reads the residual generator of CycleGAN's PyTorch repository, and CUT's, which differs by anti-aliasing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from export.errors import OTHER_WAY, ImporterError
from export.state_dicts.foreign import ForeignStateDict
from export.state_dicts.moving import Layer, move, norm_of
from trainer.models.blur import DOWN_TAPS, UP_TAPS, blur_kernel
from trainer.snapshot import Snapshot

_SIZE = 256  # the training size of the published networks, which take any size
_BLOCK = re.compile(r"model\.(\d+)\.conv_block\.")


def is_resnet(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are named as those of this generator."""
    return "model.1.weight" in tensors and any(_BLOCK.match(key) for key in tensors)


def has_filters(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there are filters of anti-aliasing among the tensors."""
    return any(key.endswith(".filt") for key in tensors)


def read_resnet(foreign: ForeignStateDict, task: str) -> Snapshot:
    """Return a snapshot of the residual generator in `foreign`, whatever its width, depth, norm and dropout.

    The layers are in one sequence `model`: layer 1 is the first convolution; 4 and 7 halve the map; then come the
    blocks; the next two layers double the map; the last one has the images' channels. A norm follows its convolution.
    An anti-aliased network has a module with one tensor, `filt`, after a halving and before a doubling convolution; it
    shifts the numbers of later layers by one. Within a block, `conv_block`, dropout shifts the second convolution
    from 5 to 6.

    Raises:
        ImporterError: it is another network.
    """
    tensors = foreign.tensors
    first = tensors.get("model.1.weight")
    if first is None or first.ndim != 4:
        raise ImporterError(_refusal(foreign))
    blocks = {int(match[1]) for key in tensors if (match := _BLOCK.match(key))}
    blurs_down = "model.7.filt" in tensors
    first_block = 12 if blurs_down else 10
    end = first_block + len(blocks)
    blurs_up = f"model.{end}.filt" in tensors
    key = f"model.{end + (9 if blurs_up else 7)}.weight"
    last = tensors.get(key)
    if last is None or last.ndim != 4:
        raise ImporterError(f"{foreign.path} has no layer {key}: it is incomplete or not a residual generator")
    layers = list(_layers(foreign, first_block, end, blurs_down, blurs_up))
    model: dict[str, Any] = {
        "type": "resnet_generator",
        "in_channels": first.shape[1],
        "out_channels": len(last),
        "width": len(first),
        "blocks": len(blocks),
        "norm": norm_of(foreign, layers),
        "downsampling": "antialiased" if blurs_down else "strided",
        "upsampling": "antialiased" if blurs_up else "transposed",
    }
    filters = dict.fromkeys(("model.7", "model.11") if blurs_down else (), blur_kernel(DOWN_TAPS, 1.0))
    filters |= dict.fromkeys((f"model.{end}", f"model.{end + 4}") if blurs_up else (), blur_kernel(UP_TAPS, 4.0))
    return move(_without_filters(foreign, filters), model, layers, task=task, size=_SIZE)


def _layers(foreign: ForeignStateDict, first_block: int, end: int, blurs_down: bool, blurs_up: bool) -> Iterator[Layer]:
    """Yield the layers; our sequence has the same order and so the same numbers."""
    for index in (1, 4, 8 if blurs_down else 7):
        yield _normed("layers", "model", index, index)
    for index in range(first_block, end):
        ours, theirs = f"layers.{index}.layers", f"model.{index}.conv_block"
        yield _normed(ours, theirs, 1, 1)
        yield _normed(ours, theirs, 5, 5 if f"{theirs}.5.weight" in foreign.tensors else 6)
    for index in (end + 1, end + 5) if blurs_up else (end, end + 3):
        yield _normed("layers", "model", index, index)
    last = end + (9 if blurs_up else 7)
    yield Layer((f"layers.{last}", f"model.{last}"), always_biased=True)


def _normed(ours: str, theirs: str, our_index: int, their_index: int) -> Layer:
    return Layer(
        (f"{ours}.{our_index}", f"{theirs}.{their_index}"), (f"{ours}.{our_index + 1}", f"{theirs}.{their_index + 1}")
    )


def _without_filters(foreign: ForeignStateDict, filters: dict[str, Tensor]) -> ForeignStateDict:
    """`foreign` without the anti-aliasing `filters` [k, k], after checking that they equal ours for every channel."""
    tensors = dict(foreign.tensors)
    for prefix, kernel in filters.items():
        taps = tensors.pop(f"{prefix}.filt", None)
        if taps is None or taps.shape[1:] != (1, *kernel.shape) or not torch.allclose(taps, kernel, atol=1e-6):
            raise ImporterError(
                f"{foreign.path}: {prefix}.filt is missing or is not the published {len(kernel)} x {len(kernel)} filter"
            )
    return ForeignStateDict(foreign.path, tensors, foreign.digest)


def _refusal(foreign: ForeignStateDict) -> str:
    """Why a file without the first layer of a residual generator is refused."""
    if any(_BLOCK.match(key) for key in foreign.tensors) and "model.0.weight" in foreign.tensors:
        return (
            f"{foreign.path} was trained with the repository of early 2017, whose layers pad with zeros: train it "
            "again with a later version"
        )
    return f"{foreign.path} is no residual generator (it begins with {next(iter(foreign.tensors))}): {OTHER_WAY}"
