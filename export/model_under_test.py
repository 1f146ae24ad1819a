"""The model that a proof examines, and the reference that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import TensorSpec
from export.manifest import ModelCard

Shape = tuple[int, ...]


class Reference(Protocol):
    """The implementation that a model must agree with."""

    name: str
    """A name with a version, such as "torch 2.13.0"."""

    @property
    def clipped_share(self) -> float:
        """The share of all output values so far that lay outside black..white by more than a grey level, 0..1."""

    def image(self, feeds: Feeds) -> NDArray[np.float32]:
        """Return the expected images [batch, height, width, channels], in grey levels 0..255 before rounding.

        Raises:
            ExportError: the reference does not run on `feeds`.
        """

    def layers(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """Return the output of each layer that has a name in the model, in the order in which the layers run."""


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest(ModelCard):
    """A model that becomes an artifact once it is proved.

    `model` is in float32. `training_size` is the height and width of the training images, in pixels.
    """

    model: onnx.ModelProto
    reference: Reference
    training_size: int

    @property
    def image_spec(self) -> TensorSpec:
        """The output."""
        return self.interface.outputs[0]
