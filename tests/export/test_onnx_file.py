"""ONNX files are read with the weights beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.declared import Declared
from export.errors import ImporterError
from export.foreign import wrap_onnx
from export.onnx_source import load_onnx
from tests.export.onnx_models import (
    painter,
    random_images,
    reference_images,
    run_wrapped,
)


def test_load_onnx_reads_weights_beside_the_file(tmp_path: Path) -> None:
    model, path = painter(-1, 1), tmp_path / "painter.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (loaded, digest), declared = load_onnx(path), Declared((-1, 1))
    foreign = wrap_onnx(loaded, declared, name="painter")
    inputs = random_images(2, 16, 16, 3)
    expected = reference_images(loaded, declared, inputs)
    assert np.abs(run_wrapped(foreign, inputs) - expected).max() < 0.51
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert load_onnx(path)[1] != digest
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ImporterError, match=r"painter\.onnx: its weights cannot be read .*weights\.bin") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x09", b"{}", None], ids=repr)
def test_load_onnx_refuses_other_files(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImporterError, match=r"model\.onnx (is not an ONNX file|cannot be read)") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_load_onnx_refuses_weights_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "model.onnx"
    onnx.save(painter(-1, 1), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "folder" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    onnx.save(model, path)
    with pytest.raises(ImporterError, match="its weights cannot be read"):
        load_onnx(path)
