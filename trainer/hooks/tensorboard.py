"""TensorBoard's event files: the means as scalars, the sample grids as images."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from tensorboardX import SummaryWriter

from trainer.hooks.base import Training

FOLDER = "tensorboard"
COPY_SECONDS = 30.0


class TensorBoard:
    """Writes to a folder of this machine; the file is copied to the run's storage now and then, and at the end."""

    def start(self, training: Training) -> None:
        """Open a file; what an earlier one has after the checkpoint is marked as purged."""
        if not training.is_main:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="zorse-tensorboard-")
        self._writer = SummaryWriter(self._folder.name, purge_step=training.seen or None)
        self._copied = time.monotonic()

    def after_step(self, training: Training) -> None:
        """Add what is new."""
        if not training.is_main:
            return
        for name, value in training.metrics.items():
            self._writer.add_scalar(name.replace(" ", "_"), value, training.seen)
        if training.picture is not None:
            picture = Pillow.open(io.BytesIO(training.picture))
            self._writer.add_image("samples", np.asarray(picture.convert("RGB")), training.seen, dataformats="HWC")
        if time.monotonic() - self._copied > COPY_SECONDS:
            self._copy(training)

    def finish(self, training: Training) -> None:
        """Copy the whole file."""
        if not training.is_main:
            return
        self._writer.close()
        self._copy(training)
        self._folder.cleanup()

    def _copy(self, training: Training) -> None:
        self._writer.flush()
        for path in Path(self._folder.name).iterdir():
            training.files.write(f"{FOLDER}/{path.name}", path.read_bytes())
        self._copied = time.monotonic()
