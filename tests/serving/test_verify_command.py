"""`zorse verify` as a program: its output and exit codes, without torch, onnx and Ray."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serving.cli import register
from serving.errors import ArtifactError
from tests.serving.tiny import generator_graph, generator_manifest, write, write_manifest

PROGRAM = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "deepspeed", "onnx", "onnxscript", "ray"}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
import zorse.cli
zorse.cli.main()
"""


def program(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "verify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def verify(*words: object) -> str:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["verify", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write(tmp_path, generator_graph(), generator_manifest())


def test_verify_of_a_sound_artifact_exits_with_0_without_torch(digits: Path) -> None:
    done = program(digits)
    assert (done.returncode, done.stderr) == (0, "")
    first, files, golden, times = done.stdout.splitlines()
    assert first == "digits version 1 (onnx) is what was proved"
    assert files == "files: 2 whole; fields: as the model's own"
    assert re.fullmatch(
        r"golden sample: 1 inputs; buckets: 0; at most \d(\.\d+)? grey levels apart on (cpu|cuda)", golden
    )
    assert re.fullmatch(r"session start \d+ ms, first inference \d+ ms, second \d+ ms", times)


def test_verify_of_a_flipped_bit_exits_with_1_and_one_line(digits: Path) -> None:
    content = bytearray((digits / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (digits / "model.onnx").write_bytes(content)
    done = program(digits)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {digits}/model.onnx is not the file that manifest.json describes (digest mismatch")


def test_verify_of_a_graph_that_does_not_run_exits_with_1_and_one_line(digits: Path) -> None:
    (digits / "model.onnx").write_bytes(b"no graph")
    write_manifest(digits, generator_manifest())
    done = program(digits, "--device", "cpu")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: onnxruntime cannot load {digits}/model.onnx")


def test_verify_takes_a_model_folder_and_a_version(digits: Path) -> None:
    write(digits.parents[1], generator_graph(), generator_manifest(version=2))
    (digits.parent / "aliases.json").write_text('{"stable": 1}')
    for words, version in ((digits.parent, 2), (f"{digits.parent}@stable", 1), (f"{digits.parent}@2", 2)):
        assert verify(words, "--device", "cpu").startswith(f"digits version {version} (onnx) is what was proved\n")
    with pytest.raises(ArtifactError, match=r"has no digits@beta: digits has 1, 2, stable \(1\), latest"):
        verify(f"{digits.parent}@beta", "--device", "cpu")
