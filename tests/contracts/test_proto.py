"""The classes of gRPC's messages are those that protoc makes of the .proto file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = Path("serving/grpc/open_inference.proto")


def test_generated_classes_are_those_of_the_proto_file(tmp_path: Path) -> None:
    out = ["--python_out", str(tmp_path), "--pyi_out", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "--proto_path", ".", *out, str(PROTO)], cwd=ROOT, check=True
    )
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = PROTO.with_name(PROTO.stem + suffix)
        assert (ROOT / name).read_text() == (tmp_path / name).read_text(), "run make proto"
