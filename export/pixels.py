"""How images are stored, and the interfaces of models that take and return such images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.errors import UnsupportedGraphError
from export.interface import (
    IMAGE,
    LABEL,
    LATENT,
    SOURCE,
    DType,
    Interface,
    Latent,
    SizeLimits,
    TensorSpec,
)

Axes = tuple[int | str, ...]


@dataclass(frozen=True)
class Pixels:
    """The dtype of stored images, and the closed interval of values that stands for the network's -1..1."""

    dtype: DType = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        """Raises UnsupportedGraphError if the values do not rise, or the dtype does not have them."""
        least, most = {"uint8": (0, 255), "uint16": (0, 65535)}.get(self.dtype, (-math.inf, math.inf))
        rises = least <= self.low < self.high <= most and math.isfinite(self.low) and math.isfinite(self.high)
        fits = not self.whole or (float(self.low).is_integer() and float(self.high).is_integer())
        if not rises or not fits or (self.dtype == "uint8" and self.bounds != (least, most)):
            raise UnsupportedGraphError(
                f"{self.dtype} images cannot have the values {self.low:g}..{self.high:g}: give a --value-range that "
                f"rises within {least}..{most}"
                + (" in whole numbers" if self.whole else "")
                + (", which for bytes is 0..255" if self.dtype == "uint8" else "")
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return self.low, self.high

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are values."""
        return self.dtype != "float32"


BYTES = Pixels()


def generator_interface(
    pixels: Pixels, batch: int | str, latent_dim: int, image_axes: Axes, labels: tuple[str, ...] | None = None
) -> Interface:
    """Return the interface of a generator; `image_axes` are height, width and channels of its images."""
    inputs = [TensorSpec(LATENT, "float32", (batch, latent_dim), "independent standard normal numbers")]
    if labels is not None:
        inputs.append(TensorSpec(LABEL, "int64", (batch,), "the number of the class", (0, len(labels) - 1)))
    image = TensorSpec(IMAGE, pixels.dtype, (batch, *image_axes), "the generated image", pixels.bounds)
    return Interface("generator", tuple(inputs), (image,), latent=Latent(latent_dim), labels=labels)


def translator_interface(
    pixels: Pixels, source_axes: Axes, out_channels: int, size: SizeLimits, scale: int = 1
) -> Interface:
    """Return the interface of a translator; `source_axes` are batch, height, width and channels of its source."""
    batch, *sizes, _ = source_axes
    scaled = (_scaled(axis, scale) for axis in sizes)
    source = TensorSpec(SOURCE, pixels.dtype, source_axes, "the image to translate", pixels.bounds)
    image = TensorSpec(IMAGE, pixels.dtype, (batch, *scaled, out_channels), "the translated image", pixels.bounds)
    return Interface("translator", (source,), (image,), size=size, scale=scale)


def _scaled(axis: int | str, scale: int) -> int | str:
    """Return the axis of a scaled image; an open axis gets another name, since it has another length."""
    if isinstance(axis, int):
        return axis * scale
    return axis if scale == 1 else f"{axis}_x{scale}"
