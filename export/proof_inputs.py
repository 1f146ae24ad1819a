"""Makes the inputs on which a model is compared with its reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import UnsupportedGraphError
from export.feeds import Feeds
from export.grey_levels import value_bounds
from export.interface import LABEL, Interface, SizeLimits, TensorSpec
from export.manifest import PROVED_BATCH
from export.model_under_test import ModelUnderTest, Shape

DARKER = 0.9
"""The factor by which an image is darkened each time that it is repeated within a batch."""
_LARGEST_BUCKET = 2**28
"""The largest number of values in one input."""


def proof_inputs(model: ModelUnderTest, images: Sequence[NDArray[Any]] = (), seed: int = 0) -> Iterator[Feeds]:
    """Yield one input for each of several shapes, see `proof_input`.

    Generators get batches of 1, 3 and 16. Translators get the training size, the smallest and the largest size, and
    sizes that are not square.
    """
    limits, (batch, *axes) = model.interface.size, model.interface.inputs[0].shape
    shapes = _image_shapes(limits, model.training_size) if limits else [(1,), (3,), (PROVED_BATCH,)]
    for count, *sizes in dict.fromkeys(shapes):
        count = batch if isinstance(batch, int) else count
        fixed = [axis for axis in axes[len(sizes) :] if isinstance(axis, int)]
        yield proof_input(model.interface, (count, *sizes, *fixed), images, seed)


def _image_shapes(limits: SizeLimits, training_size: int) -> list[Shape]:
    """Return (batch, height, width) of every proof input of a translator."""
    small = limits.legal(training_size // 4, training_size // 4)
    wider = limits.legal(small[0], small[1] + limits.width.multiple)
    return [
        (1, *limits.legal(training_size, training_size)),
        (3, *small),
        (PROVED_BATCH, *small),
        (2, *limits.legal(wider[1], limits.width.minimum)),
        (2, *wider),
        (1, *limits.smallest),
        (1, *limits.largest),
    ]


def proof_input(interface: Interface, shape: Shape, images: Sequence[NDArray[Any]] = (), seed: int = 0) -> Feeds:
    """Return one input whose first tensor has `shape`.

    Generators: seeded N(0, 1) latents, float32 [batch, dim], and, if the model has labels, class numbers int64 [batch]
    spread evenly from the first class to the last. Translators: `images` [h, w, c], padded by mirroring or cropped to
    [batch, height, width, c]; repeats within a batch are darkened, so that no two rows are equal. Translators without
    images: seeded uniform noise over the value range.
    """
    random, first = np.random.default_rng(seed), interface.inputs[0]
    if interface.latent is None:
        return {first.name: _batch(first, shape, images) if images else _noise(first, shape, random)}
    feeds: dict[str, NDArray[Any]] = {first.name: random.standard_normal(shape, dtype=np.float32)}
    if interface.labels is not None:
        last = len(interface.labels) - 1
        start = 0 if shape[0] > 1 else seed % (last + 1)
        feeds[LABEL] = np.round(np.linspace(start, last, shape[0])).astype(np.int64)
    return feeds


def _batch(spec: TensorSpec, shape: Shape, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    low, _ = value_bounds(spec)
    count, height, width, _ = shape
    filled = [_fitted(images[index % len(images)], height, width) for index in range(count)]
    darkened = [low + (image - low) * DARKER ** (index // len(images)) for index, image in enumerate(filled)]
    return np.stack(darkened).astype(spec.dtype)


def _noise(spec: TensorSpec, shape: Shape, random: np.random.Generator) -> NDArray[Any]:
    low, high = value_bounds(spec)
    if spec.dtype == "float32":
        return random.uniform(low, high, shape).astype(np.float32)
    return random.integers(int(low), int(high), shape, dtype=spec.dtype, endpoint=True)


def _fitted(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    missing = [(0, max(0, wanted - size)) for wanted, size in zip((height, width), image.shape, strict=False)]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric")[:height, :width]


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
