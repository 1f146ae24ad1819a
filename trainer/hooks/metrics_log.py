"""Writes one line of JSON to `metrics/` for each step that logged figures, and reports the figures to the driver."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from trainer.hooks.base import Hook, Stage, Training
from trainer.metric_lines import PART_LINES, part_content, part_name, read_parts


class MetricsLog(Hook):
    """Appends lines to the newest part of the log, and starts a new part every `PART_LINES` lines.

    Object stores cannot append, so each line rewrites its part: the work grows linearly with the number of lines.
    """

    stage: ClassVar[Stage] = Stage.RECORD

    def start(self, training: Training) -> None:
        """Start the clock. After a resume, remove the lines after the checkpoint."""
        seconds = 0.0
        self._part, self._lines = part_name(training.seen), list[dict[str, Any]]()
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
        self._lines.append({name: value for name, value in line.items() if value != {}})
        training.files.write(self._part, part_content(self._lines))
        training.reporter.progress(training.seen, figures)

    def _cut(self, training: Training) -> float:
        """Remove the lines after `training.seen`, and return the seconds of training up to the last line that stays."""
        training.files.finish()
        seconds = 0.0
        for name, lines in read_parts(training.storage):
            kept = [line for line in lines if line["images"] <= training.seen]
            if kept:
                self._part, self._lines, seconds = name, kept, kept[-1].get("seconds", seconds)
                training.storage.write(name, part_content(kept))
            else:
                training.storage.remove(name)
        return seconds
