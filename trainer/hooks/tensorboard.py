"""Writes event files for TensorBoard: figures as scalars, sample grids as images."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image as Pillow
from tensorboardX import SummaryWriter

from trainer.hooks.base import Hook, Stage, Training

FOLDER = "tensorboard"
COPY_SECONDS = 30.0
FILE_BYTES = 2**20
"""An event file of this size is closed and the next one started, so that copying takes linear time."""


class TensorBoard(Hook):
    """Writes to a temporary folder, whose newest file is copied to the run's storage every `COPY_SECONDS`."""

    stage: ClassVar[Stage] = Stage.RECORD

    def start(self, training: Training) -> None:
        """Open a file. TensorBoard is told to drop the entries of earlier files after the checkpoint."""
        if not training.is_main:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="zorse-tensorboard-")
        self._files = 0
        self._open(purge_step=training.seen or None)

    def after_step(self, training: Training) -> None:
        """Add the step's figures and picture."""
        if not training.is_main:
            return
        for name, value in training.all_figures.items():
            self._writer.add_scalar(name.replace(" ", "_"), value, training.seen)
        if training.picture is not None:
            picture = Pillow.open(io.BytesIO(training.picture))
            self._writer.add_image("samples", np.asarray(picture.convert("RGB")), training.seen, dataformats="HWC")
        if time.monotonic() - self._copied > COPY_SECONDS:
            self._writer.flush()
            if self._copy(training) > FILE_BYTES:
                self._writer.close()
                self._open()

    def finish(self, training: Training) -> None:
        """Copy the newest file."""
        if not training.is_main:
            return
        self._writer.close()
        self._copy(training)
        self._folder.cleanup()

    def _open(self, purge_step: int | None = None) -> None:
        """Start the next event file. TensorBoard reads the files of a folder in the order of their names."""
        self._files += 1
        # Without the suffix two files of one second would have the same name.
        suffix = f".{self._files:06d}"
        self._writer = SummaryWriter(self._folder.name, purge_step=purge_step, filename_suffix=suffix)
        self._copied = time.monotonic()

    def _copy(self, training: Training) -> int:
        """Copy the newest file to the run's storage, and return its size in bytes."""
        newest = max(Path(self._folder.name).iterdir(), key=lambda path: path.name)
        content = newest.read_bytes()
        training.files.write(f"{FOLDER}/{newest.name}", content)
        self._copied = time.monotonic()
        return len(content)
