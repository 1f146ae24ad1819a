"""A gRPC server of the translator `invert`, and an input for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput

from tests.serving.grpc_live import LiveGrpc, live_grpc
from tests.serving.tiny import inverter_manifest

SOURCE = np.full((1, 20, 20, 3), 200, np.uint8)


@contextmanager
def server(**options: Any) -> Iterator[LiveGrpc]:
    """Serve the translator `invert`. The path of a socket may have about a hundred characters."""
    with tempfile.TemporaryDirectory() as folder, live_grpc(Path(folder), [inverter_manifest()], **options) as live:
        yield live


def source() -> list[InferInput]:
    return [InferInput("source", list(SOURCE.shape), "UINT8").set_data_from_numpy(SOURCE)]
