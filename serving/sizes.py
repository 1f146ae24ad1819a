"""The sizes that a translator runs at: a small ladder, so that images of different sizes can share a run.

A GPU prepares its convolutions for every shape anew, and only images of one shape can be merged. Padding costs
computation, in turn. The functions are pure: the same image is padded alike online, in a program and in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from export.interface import AxisLimits, Interface

STEPS = 8
"""The number of sizes of one axis between a size and its double. A step is at most 1 / `STEPS` of the smaller size."""


def padded_size(interface: Interface, buckets: Sequence[tuple[int, ...]], height: int, width: int) -> tuple[int, int]:
    """Return the height and width in pixels to which the source image of a translator is padded before a run.

    It is the smallest of the `buckets` [batch, height, width, channels] that holds the image, the first one of equals.
    If no bucket holds it, each axis goes up to the next size of the ladder: the legal sizes in steps of the model's
    multiple up to 16 multiples, and then `STEPS` for each doubling, but never above the largest legal size.

    `height` and `width` are not larger than the largest legal size. A legal size is at most 1 / `STEPS` smaller.
    """
    if interface.size is None:
        raise TypeError(f"a {interface.kind} has no source images")
    holding = [bucket[1:3] for bucket in buckets if bucket[1] >= height and bucket[2] >= width]
    if holding:
        rows, columns = min(holding, key=lambda size: size[0] * size[1])
        return rows, columns
    return _rung(interface.size.height, height), _rung(interface.size.width, width)


def _rung(limits: AxisLimits, size: int) -> int:
    """Return the smallest size of the ladder that is at least `size`."""
    multiples = limits.legal(size) // limits.multiple
    step = max(1, (1 << multiples.bit_length() - 1) // STEPS)
    return min(-(-multiples // step) * step * limits.multiple, limits.legal(limits.maximum))
