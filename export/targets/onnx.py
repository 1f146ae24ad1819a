"""ONNX in float32: the model as it was converted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from export.feeds import Feeds
from export.targets.base import Target, Variant, register


def variants(model: onnx.ModelProto, samples: Sequence[Feeds]) -> Iterator[Variant]:
    """Implements `export.targets.base.Variants`."""
    yield Variant(model)


register(Target("onnx", variants, tolerance=1 / 16, min_psnr=45, replay_tolerance=1, layer_tolerance=1e-2, large=True))
