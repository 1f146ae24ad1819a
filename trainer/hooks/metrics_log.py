"""Writes one line of JSON to `metrics/` for each step that logged figures, and reports the figures to the driver."""

from __future__ import annotations

import json
import time
from typing import ClassVar

from trainer.hooks.base import Hook, Stage, Training
from trainer.metric_lines import PART_LINES, part_name, read_parts


class MetricsLog(Hook):
    """Appends lines to the newest part of the log, and starts a new part every `PART_LINES` lines.

    Object stores cannot append, so each line rewrites its part: the work grows linearly with the number of lines.
    """

    stage: ClassVar[Stage] = Stage.RECORD

    def start(self, training: Training) -> None:
        """Start the clock. After a resume, remove the lines after the checkpoint."""
        seconds = 0.0
        self._part, self._lines = part_name(training.seen), list[str]()
        if training.is_main:
            seconds = self._cut(training)
        self._start = time.monotonic() - seconds

    def after_step(self, training: Training) -> None:
        """Write the step's figures, if it has any, and report them to the driver."""
        figures = training.all_figures
        if not figures or not training.is_main:
            return
        if not self._lines or len(self._lines) == PART_LINES:
            self._part, self._lines = part_name(training.seen), []
        line = {
            "images": training.seen,
            "seconds": round(time.monotonic() - self._start, 3),
            "figures": training.figures,
            "realness": training.realness,
            "performance": training.performance,
        }
        self._lines.append(json.dumps({name: value for name, value in line.items() if value != {}}) + "\n")
        training.files.write(self._part, "".join(self._lines).encode())
        training.reporter.progress(training.seen, figures)

    def _cut(self, training: Training) -> float:
        """Remove the lines after `training.seen`, and return the seconds of training up to the last line that stays."""
        training.files.finish()
        seconds = 0.0
        for name, lines in read_parts(training.storage):
            kept = [line for line in lines if json.loads(line)["images"] <= training.seen]
            if kept:
                self._part, self._lines = name, kept
                seconds = json.loads(kept[-1])["seconds"]
                if len(kept) < len(lines):
                    training.storage.write(name, "".join(kept).encode())
            else:
                training.storage.remove(name)
        return seconds
