"""The inputs and outputs of a model: a part of the artifact contract that depends on pydantic alone.

A generator has the input `latent`, float32 [batch, dim], and, where it is conditional, `label`, int64 [batch]. A
translator has the input `source`, [batch, height, width, channels]. Both have the output `image`, [batch, height,
width, channels].
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Kind = Literal["generator", "translator"]
DType = Literal["uint8", "uint16", "float32", "int64"]
LATENT, LABEL, SOURCE, IMAGE = "latent", "label", "source", "image"
"""The names of the inputs and of the output."""
DEFAULT_MAX_SIZE = 512
"""The least that a translator declares as its largest height and width by default, in pixels."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""The pydantic rules of every type of the contract: no conversion, no unknown field, finite numbers only."""
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class TensorSpec:
    """One input or output of a model.

    `shape` has an int for a fixed axis and a name ("batch", "height", "width") for a dynamic one. `value_range` is the
    closed interval of legal values, or None if the tensor is unbounded.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if `value_range` does not rise."""
        if self.value_range and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"the value range of {self.name} is {self.value_range}")


@dataclass(frozen=True, config=STRICT)
class Latent:
    """The distribution of a generator's latent codes: `dim` independent standard normal numbers."""

    dim: Positive
    distribution: Literal["normal"] = "normal"


@dataclass(frozen=True, config=STRICT)
class AxisLimits:
    """The legal heights, or widths, in pixels: the multiples of `multiple` from `minimum` to `maximum`."""

    multiple: Positive
    minimum: Positive
    maximum: int

    def __post_init__(self) -> None:
        """Raises ValueError if no multiple lies between the limits."""
        if not self.minimum <= self.legal(self.minimum) <= self.maximum:
            raise ValueError(f"there is no size of {self} pixels")

    def __str__(self) -> str:
        return f"{self.minimum} to {self.maximum} in steps of {self.multiple}"

    def legal(self, size: int) -> int:
        """Return the smallest legal size that is at least `size`, or else the largest legal size."""
        bounded = min(max(size, self.minimum), self.maximum // self.multiple * self.multiple)
        return -(-bounded // self.multiple) * self.multiple


@dataclass(frozen=True, config=STRICT)
class SizeLimits:
    """The legal image sizes of a translator. A server pads smaller images to the next legal size."""

    height: AxisLimits
    width: AxisLimits

    def __str__(self) -> str:
        return f"heights of {self.height} and widths of {self.width} pixels"

    @staticmethod
    def square(multiple: int, minimum: int, maximum: int) -> SizeLimits:
        """Return the same limits for heights and widths."""
        axis = AxisLimits(multiple, minimum, maximum)
        return SizeLimits(axis, axis)

    def legal(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest legal height and width that are at least these, or else the largest legal ones."""
        return self.height.legal(height), self.width.legal(width)

    def at_least(self, size: int) -> SizeLimits:
        """Return these limits with both minima raised to `size`, or to the largest legal size if that is smaller."""
        height, width = (
            dataclasses.replace(axis, minimum=max(axis.minimum, min(size, axis.legal(axis.maximum))))
            for axis in (self.height, self.width)
        )
        return SizeLimits(height, width)

    @property
    def smallest(self) -> tuple[int, int]:
        """The smallest legal height and width."""
        return self.legal(0, 0)

    @property
    def largest(self) -> tuple[int, int]:
        """The largest legal height and width."""
        return self.legal(self.height.maximum, self.width.maximum)


@dataclass(frozen=True, config=STRICT)
class Interface:
    """A model's kind, inputs and outputs.

    A generator has a `latent`; a conditional one also has `labels`, the names of its classes in the order of the label
    numbers. A translator has a `size`. The images that it makes are `scale` times as high and as wide as its source.
    """

    kind: Kind
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    size: SizeLimits | None = None
    latent: Latent | None = None
    labels: tuple[str, ...] | None = None
    scale: Positive = 1

    def __post_init__(self) -> None:
        """Raises ValueError if a generator has a scale."""
        if self.scale > 1 and self.kind != "translator":
            raise ValueError(f"the scale of a generator is {self.scale}")
