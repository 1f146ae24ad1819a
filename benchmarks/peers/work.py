"""The work that every peer does for a request, with numpy, Pillow and onnxruntime alone.

It runs in the peers' environments, which lack this project. All peers share it, so that they differ only as servers.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
LATENT = 64
DCGAN, RESNET = "dcgan32", "resnet9-AtoB"
NUMPY = {"FP32": "<f4", "UINT8": "<u1"}


class Model:
    """One ONNX model on the CPU. The small generator has one thread, and the translator all cores."""

    def __init__(self, name: str, options: onnxruntime.SessionOptions | None = None) -> None:
        if options is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1 if name == DCGAN else len(os.sched_getaffinity(0))
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(os.environ["PEER_REPOSITORY"]) / name / "1" / "model.onnx"
        self.name = name
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def run(self, tensor: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the images, uint8 [n, h, w, c]."""
        images: NDArray[np.uint8] = self.session.run(None, {self.input: tensor})[0]
        return images

    def verb(self, body: bytes) -> bytes:
        """Return the answer of the model's image verb as a PNG: `generate` of a JSON body, `translate` of a PNG."""
        if self.name == DCGAN:
            seed = json.loads(body)["seed"]
            return png(self.run(np.random.default_rng(seed).standard_normal((1, LATENT), np.float32))[0])
        return png(self.run(np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[None])[0])

    def infer(self, body: bytes, header_length: int) -> tuple[bytes, int]:
        """Answer a KServe v2 request with binary tensors: the body, and the length of its JSON."""
        header = json.loads(body[:header_length])["inputs"][0]
        tensor = np.frombuffer(body, NUMPY[header["datatype"]], offset=header_length).reshape(header["shape"])
        images = self.run(tensor)
        parameters = {"binary_data_size": images.nbytes}
        output = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "parameters": parameters}
        answer = json.dumps({"model_name": self.name, "outputs": [output]}).encode()
        return answer + images.tobytes(), len(answer)


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [h, w, 1 or 3], as quickly as Pillow can."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
