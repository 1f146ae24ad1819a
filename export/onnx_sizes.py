"""Finds which image sizes a foreign ONNX model takes and by how much it scales them, by running it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.errors import ImporterError
from export.interface import AxisLimits, SizeLimits
from export.onnx_source import OnnxSource

MOST_CHANNELS, _USUAL_SIZE = 64, 48
_USUAL_CHANNELS = (1, 3, 4)


def example_latents(source: OnnxSource) -> NDArray[np.float32]:
    """Return two seeded latent codes [2, dim] for a generator.

    Raises:
        ImporterError: the input is no vector of fixed length, the output is no image, or the model does not run.
    """
    name, dtype, shape = source.input
    dim = shape[1 if source.channels_first else -1]
    if not isinstance(dim, int) or dtype is np.uint8:
        raise ImporterError(f"{source.name}: input {name} {list(shape)} is no vector of floats of a fixed length")
    latents = np.random.default_rng(0).standard_normal((2, dim), dtype=np.float32)
    _channel_count(source, source.output.name, source.in_own_layout(source.run(latents[:1]).shape))
    return latents


def find_size_limits(source: OnnxSource, max_size: int) -> tuple[SizeLimits, NDArray[np.uint8]]:
    """Return the image sizes that a translator takes, and two example images [2, h, w, c] of a usual size.

    Heights and widths that the file leaves open are the declared multiples up to `max_size`. Their minimum is the
    smallest size, doubled from the multiple, on which the model runs.

    Raises:
        ImporterError: the input is no image, the output is no image of the same or of a scaled size, or the model does
            not run on any size.
    """
    channels = _channel_count(source, source.input.name, source.input.shape)
    for name, numbers in (("mean", source.declared.mean), ("std", source.declared.std)):
        if len(numbers) not in (1, channels):
            raise ImporterError(f"{source.name} takes {channels} channels: give one {name}, or {channels}")
    multiple = source.declared.size_multiple
    if multiple > max_size:
        raise ImporterError(f"{source.name}: sizes are multiples of {multiple} up to {max_size}: there is none")
    smallest, maximum = multiple, max_size // multiple * multiple
    while True:
        axes = (
            AxisLimits(axis, axis, axis) if isinstance(axis, int) else AxisLimits(multiple, smallest, maximum)
            for axis in source.size_axes
        )
        limits = SizeLimits(*axes)
        try:
            _try_size(source, limits, smallest, channels)
            return limits, _try_size(source, limits, max(smallest, _USUAL_SIZE), channels)
        except ImporterError:
            smallest *= 2
            if limits.smallest == limits.largest or smallest + multiple > maximum:
                raise


def _try_size(source: OnnxSource, limits: SizeLimits, size: int, channels: int) -> NDArray[np.uint8]:
    """Run the model on an image of about `size` pixels; return two such images [2, h, w, c].

    Raises:
        ImporterError: it does not run, or its output has not the size of the input times a whole factor.
    """
    # Height and width differ by one step, so that a model that needs a larger multiple shows it.
    height, width = limits.height.legal(size), limits.width.legal(size + limits.width.multiple)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    images[1] //= 2
    shape = source.run(images[:1]).shape
    if shape[1:3] != tuple(max(1, shape[1] // height) * side for side in (height, width)):
        raise _wrong_size(source, shape, (height, width))
    if shape[3] > MOST_CHANNELS:
        raise ImporterError(f"{source.name} makes {shape[3]} channels and the most is {MOST_CHANNELS}: it is no image")
    return images


def _wrong_size(source: OnnxSource, shape: tuple[int, ...], size: tuple[int, int]) -> ImporterError:
    own = source.in_own_layout(shape)
    if (own[1:3] if source.channels_first else own[2:]) == size:
        name, layout = source.output.name, source.declared.layout
        return ImporterError(
            f"{source.name}: output {name} {list(own)} is not {layout} as its input: give both one layout"
        )
    return ImporterError(
        f"{source.name} makes {shape[1]}×{shape[2]} pixels of {size[0]}×{size[1]}: the size must be kept or scaled "
        "by a whole factor; if it is rounded to a multiple, give that as --size-multiple"
    )


def _channel_count(source: OnnxSource, name: str, shape: tuple[int | str | None, ...]) -> int:
    """Return the number of channels that `shape` has in the declared layout.

    Raises:
        ImporterError: it is no shape of an image in that layout.
    """
    where = f"{source.name}: {name} [{', '.join('?' if axis is None else str(axis) for axis in shape)}]"
    if len(shape) != 4:
        raise ImporterError(f"{where} has {len(shape)} axes: an image has 4, a latent vector 2")
    layout, other = ("NCHW", "NHWC") if source.channels_first else ("NHWC", "NCHW")
    channels, elsewhere = (shape[1], shape[3]) if source.channels_first else (shape[3], shape[1])
    if elsewhere in _USUAL_CHANNELS and channels not in _USUAL_CHANNELS:
        raise ImporterError(f"{where} cannot be {layout}: declare the layout {other}")
    if not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS:
        raise ImporterError(
            f"{where}: by the layout {layout} it has {channels} channels, and 1 to {MOST_CHANNELS} can be"
        )
    return channels
