"""A local S3 server for tests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[None]:
    """A server with the bucket of that URI, known to this process and those it starts by the environment."""
    log = folder / "log"
    command = [sys.executable, "-m", "moto.server", "--port", "0"]
    with log.open("wb") as stream, pytest.MonkeyPatch.context() as environment:
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            environment.setenv("AWS_ENDPOINT_URL", _until_it_listens(server, log))
            environment.setenv("AWS_ACCESS_KEY_ID", "zorse")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "zorse")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
            filesystem, path = fs.FileSystem.from_uri(f"{bucket}?allow_bucket_creation=true")
            filesystem.create_dir(path)
            yield
        finally:
            server.terminate()
            server.wait(timeout=30)


def _until_it_listens(server: subprocess.Popen[bytes], log: Path) -> str:
    """The server's URL, which it logs: a port that it chose itself is nobody else's."""
    for _ in range(600):
        found = re.search(r"Running on (http://[\d.:]+)", log.read_text())
        if found:
            return found[1]
        assert server.poll() is None, log.read_text()
        try:
            server.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("the S3 server did not start")
