"""What a user declares about a foreign ONNX file, since the file does not say it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from export.errors import ImporterError

BYTE_RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class Declared:
    """The value ranges, normalisation, layout and sizes of a foreign ONNX model.

    `input_range` are the model's input values for black and white, `output_range` its output values for them; None
    means the same as the input. The input is (x / 255 * (high - low) + low - mean) / std, with one `mean` and `std` for
    all channels or one each. `layout` is the order of the axes of input and output. Heights and widths that the file
    leaves open are multiples of `size_multiple` pixels.

    Raises:
        ImporterError: a range does not rise, a number is not finite, or a `std` or the multiple is not positive.
    """

    input_range: tuple[float, float] | None = None
    output_range: tuple[float, float] | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size_multiple: int = 1

    def __post_init__(self) -> None:
        for name, bounds in (("input", self.input_range), ("output", self.output_range)):
            if bounds is None:
                continue
            low, high = bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ImporterError(f"the {name} range {low}..{high} does not rise: give a lower number, then a higher")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ImporterError(f"mean {self.mean} and std {self.std}: give finite numbers, and std above 0")
        if self.size_multiple < 1:
            raise ImporterError(f"sizes cannot be multiples of {self.size_multiple}: give 1 or more")

    @property
    def output_bounds(self) -> tuple[float, float]:
        """The output values for black and white: the declared ones, or those of the input.

        Raises:
            ImporterError: neither is declared.
        """
        if self.output_range is None and self.input_range is None:
            raise ImporterError(
                "an ONNX file does not say what black and white are: give its --input-range, or of a generator its "
                "--output-range"
            )
        return self.output_range or self.input_range or BYTE_RANGE

    @property
    def input_bounds(self) -> tuple[float, float]:
        """The input values for black and white, which translators need.

        Raises:
            ImporterError: they are not declared.
        """
        if self.input_range is None:
            raise ImporterError("an ONNX file does not say what black and white are: give its --input-range")
        return self.input_range


UNDECLARED = Declared()
