"""ONNX in float32: the model as it was converted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from export.targets.base import Target, register


def variants(model: onnx.ModelProto, samples: Sequence[NDArray[Any]]) -> Iterator[onnx.ModelProto]:
    """Implements `export.targets.base.Variants`."""
    yield model


register(Target("onnx", variants, tolerance=1, psnr=45, replay=1, layer_tolerance=1e-2))
