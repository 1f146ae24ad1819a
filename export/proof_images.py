"""Loads the real images of a proof, and checks the shapes that a user wants proved with fixed axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from export.errors import ImageSetError, UnsupportedGraphError
from export.images import ImagePlace, load_images
from export.interface import Interface
from export.model_under_test import Shape
from export.options import Report
from export.targets.base import Target

_LARGEST_BUCKET = 2**28
"""The largest number of values in one input."""


def real_images(
    name: str, interface: Interface, size: int, target: Target, place: ImagePlace | None, report: Report
) -> list[NDArray[Any]]:
    """Return the real images for one model, [height, width, channels] of legal sizes; none for a generator.

    `name` is the model's for messages, and `size` the length in pixels that the longer side of each image gets.

    Raises:
        ImageSetError: images are given for a generator, missing for a calibrated target, or useless for a proof.
    """
    if interface.size is None:
        if place is not None:
            raise ImageSetError(f"{name} is a generator and takes no images: leave --images out")
        return []
    if place is None:
        if target.calibrated:
            raise ImageSetError(f"{name}: {target.name} is calibrated on real images: give some with --images")
        return []
    images = load_images(place, interface.inputs[0], interface.size, size, report=report)
    if all(image.min() == image.max() for image in images):
        raise ImageSetError(
            f"{place.place}: each of the {len(images)} images is of one value, which proves nothing: give photographs, "
            "and with more than 8 bits the right --images-range"
        )
    return images


def check_buckets(name: str, interface: Interface, buckets: Sequence[Shape]) -> None:
    """Check that every bucket is a legal shape of the first input of the model `name`.

    Raises:
        UnsupportedGraphError: one is not, or is too large to be proved.
    """
    axes, size = interface.inputs[0].shape, interface.size
    for bucket in buckets:
        text = "x".join(map(str, bucket))
        fits = len(bucket) == len(axes) and all(
            length == axis if isinstance(axis, int) else length > 0 for length, axis in zip(bucket, axes, strict=True)
        )
        if fits and math.prod(bucket) > _LARGEST_BUCKET:
            raise UnsupportedGraphError(f"bucket {text} is too large to be proved: give a smaller one")
        if not fits or (size is not None and size.legal(*bucket[1:3]) != bucket[1:3]):
            limits = f" with {size}" if size else ""
            wanted = " x ".join(map(str, axes))
            raise UnsupportedGraphError(f"bucket {text} is no legal input of {name}, which takes {wanted}{limits}")
