"""What a user chooses about an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from export.declared import UNDECLARED, Declared
from export.errors import ExportError, ImporterError
from export.graph import DEFAULT_OPSET, OPSETS
from export.model_under_test import Shape
from export.pixels import BYTES, Pixels

SNAPSHOT, ONNX = "snapshot", "onnx"
Provider = Literal["cuda", "cpu"]
Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of one export; each has a default.

    - `origin`: the format of the input: "snapshot", "onnx" or an importer's name; "auto" decides by the file.
    - `name`: the artifacts' name instead of the source's.
    - `direction`: such as "AtoB", for a foreign translator whose file name does not say it.
    - `target`: the name of the export target.
    - `opset`: the ONNX operator set.
    - `max_size`: the largest height and width in pixels that translators declare. The default is twice the training
      images', and at least 512.
    - `images`: a folder or zip of real images to prove and calibrate translators with. `images_range` are the values of
      black and white in images of more than 8 bits.
    - `buckets`: shapes of the first input to prove with fixed axes, such as (8, 256, 256, 3).
    - `pixels`: how images are stored.
    - `provider`: what every node must run on.
    - `declared`: what an ONNX file does not say.
    - `licence`, `metrics`: a note and evaluation figures for the manifest.
    """

    origin: str = "auto"
    name: str | None = None
    direction: str | None = None
    target: str = "onnx"
    opset: int = DEFAULT_OPSET
    max_size: int | None = None
    images: str | None = None
    images_range: tuple[float, float] | None = None
    buckets: Sequence[Shape] = ()
    pixels: Pixels = BYTES
    provider: Provider = "cuda"
    declared: Declared = UNDECLARED
    licence: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def check(self, place: str, origin: str) -> None:
        """Check the options that depend on the `origin` of `place`, which is not "auto".

        Raises:
            ExportError: an option does not apply to this origin, or the opset is not supported.
        """
        if self.opset not in OPSETS:
            raise ExportError(f"opset {self.opset} is none of {OPSETS[0]} to {OPSETS[-1]}: give another --opset")
        if origin != ONNX and self.declared != UNDECLARED:
            raise ExportError(f"{place}: only ONNX files need to be described: leave --input-range and the like out")
        if origin == SNAPSHOT and self.direction is not None:
            raise ExportError(f"{place} knows the directions of its networks: leave --direction out")
        if origin == ONNX and self.pixels != BYTES:
            raise ImporterError(f"{place}: an ONNX file is wrapped to take bytes: leave --pixels out")
