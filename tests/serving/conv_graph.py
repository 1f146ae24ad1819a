"""A translator with convolutions, in float32 or float16: what a GPU is for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.serving.tiny import OPEN, model


def conv_graph(width: int = 8, half: bool = False) -> onnx.ModelProto:
    """source uint8 [batch, height, width, 3] → Conv → Relu → Conv → image of the same shape, computed in float16 or 32.

    The images between the convolutions have `width` channels.
    """
    real = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype, random = np.float16 if half else np.float32, np.random.default_rng(0)
    around = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["source"], ["pixels"], to=real),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["wide"], **around),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("Conv", ["positive", "second"], ["narrow"], **around),
        helper.make_node("Transpose", ["narrow"], ["values"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["values", "grey"], ["greys"]),
        helper.make_node("Clip", ["greys", "black", "white"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    constants = {
        "scale": dtype(1 / 255),
        "first": random.uniform(-0.2, 0.5, (width, 3, 3, 3)).astype(dtype),
        "second": (random.uniform(-0.5, 1, (3, width, 3, 3)) / width / 9).astype(dtype),
        "grey": dtype(255),
        "black": dtype(0),
        "white": dtype(255),
    }
    return model(
        nodes,
        constants,
        helper.make_tensor_value_info("source", TensorProto.UINT8, OPEN),
        helper.make_tensor_value_info("image", TensorProto.UINT8, OPEN),
    )
