"""ONNX with convolutions in 8-bit integers; their value ranges come from samples (static quantisation)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from export.errors import UnsupportedGraphError
from export.feeds import Feeds
from export.lint import quiet
from export.targets.base import Target, Variant, register

_LAYERS = ["Conv", "MatMul", "Gemm"]
_TRANSPOSED = "ConvTranspose"
"""onnxruntime has no integer kernel for it: quantising it makes the weights smaller and the images worse."""


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._feeds = iter([dict(sample) for sample in samples])

    def get_next(self) -> dict[str, Any] | None:
        """The next input, or None after the last."""
        return next(self._feeds, None)


def variants(model: onnx.ModelProto, samples: Sequence[Feeds]) -> Iterator[Variant]:
    """Implements `export.targets.base.Variants`: first with all layers quantised, then without the first and the last.

    Transposed convolutions stay in float32, unless there are no other layers.
    """
    operators = {node.op_type for node in model.graph.node}
    quantized = _LAYERS if operators & {*_LAYERS} else [_TRANSPOSED]
    layers = [node.name for node in model.graph.node if node.op_type in quantized]
    if not layers:
        raise UnsupportedGraphError("no layer of it can be computed in 8-bit integers: export it to onnx or onnx-fp16")
    for kept in ([], [layers[0], layers[-1]]) if len(layers) > 2 else ([],):
        with tempfile.TemporaryDirectory() as folder:
            path, source = Path(folder) / "int8.onnx", Path(folder) / "float32.onnx"
            onnx.save(model, source)
            # onnxruntime advises a preprocessing that torch's exporter has already done.
            with quiet():
                quantize_static(
                    source,
                    path,
                    _Samples(samples),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=quantized,
                    nodes_to_exclude=kept,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                )
            yield Variant(onnx.load(path))


register(
    Target(
        "onnx-int8",
        variants,
        tolerance=48,
        min_psnr=36,
        replay_tolerance=24,
        layer_tolerance=0.3,
        smallest=32,
        calibrated=True,
    )
)
