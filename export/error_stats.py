"""Measures how far a model's images are from its reference's, over all inputs of a proof."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import ExportError, ProofError
from export.feeds import Feeds, Sample, batch_size, shape_text, take_rows
from export.grey_levels import grey_step, to_grey_levels
from export.manifest import GREY_LEVELS, Proof
from export.model_under_test import ModelUnderTest
from export.sessions import not_proved, run_session
from export.targets.base import Target

ALONE_TOLERANCE = 2
"""Grey levels by which an image in a batch may differ from the same image alone, however coarse the target."""
_QUANTILE = 0.999
_ROUNDING = 1 + 1e-9
"""Allows for steps in grey levels that are not exact in binary."""
_BINS_PER_LEVEL = 64


class ErrorStats:
    """Collects the differences between images of a model and of its reference.

    `failures` has the model's folder and the feeds of each comparison whose differences are above the tolerance, and
    `errors` the reason for each.
    """

    def __init__(self, model: ModelUnderTest, target: Target) -> None:
        self.failures: list[tuple[Path, Feeds]] = []
        self.errors: list[ExportError] = []
        self._model, self._target = model, target
        self._tolerance = max(target.tolerance, grey_step(model.image_spec))
        self._histogram = np.zeros(_BINS_PER_LEVEL * GREY_LEVELS + 1, dtype=np.int64)
        self._largest, self._squares, self._count = 0.0, 0.0, 0
        self._shapes: list[tuple[int, ...]] = []

    def compare(
        self, session: onnxruntime.InferenceSession, folder: Path, sample: Sample, name: str = "onnxruntime"
    ) -> NDArray[Any]:
        """Add the differences on one input, and return the session's image.

        The image of `sample` is the expected one, in grey levels. `name` is that of the session in messages, `folder`
        where its model lies.

        Raises:
            RefusedError: the model does not run, or its image has another shape.
        """
        feeds, expected = sample.feeds, sample.image
        actual = run_session(self._model, session, feeds)
        shapes = shape_text(feeds)
        if actual.shape != expected.shape:
            raise not_proved(self._model, f"for input {shapes} {name} makes {actual.shape}, not {expected.shape}")
        if wrong := int((~np.isfinite(actual)).sum()):
            self._fail(folder, feeds, f"for input {shapes} {wrong} of {actual.size} values of {name} are not finite")
            return actual
        differences = np.abs(expected - to_grey_levels(self._model.image_spec, actual))
        worst, squares = float(differences.max()), float(np.square(differences, dtype=np.float64).sum())
        self._add(differences, worst, squares)
        self._shapes.append(next(iter(feeds.values())).shape)
        psnr = _psnr(squares, differences.size)
        if worst > self._tolerance * _ROUNDING or (psnr is not None and psnr < self._target.min_psnr):
            self._fail(
                folder,
                feeds,
                f"for input {shapes} {name} is up to {worst:.4g} grey levels from {self._model.reference.name} with a "
                f"PSNR of {psnr:.1f} dB ({self._target.name} allows {self._tolerance:.3g} and "
                f"{self._target.min_psnr:g} dB)",
            )
        return actual

    def compare_alone(self, session: onnxruntime.InferenceSession, feeds: Feeds, together: NDArray[Any]) -> None:
        """Compare the first and the last image of a batch with the same image alone.

        A server puts requests of several users into one batch, so no image may depend on the others. `together` is the
        image batch that the session made of `feeds`.

        Raises:
            RefusedError: an image depends on its batch.
        """
        spec, count = self._model.image_spec, batch_size(feeds)
        for row in (slice(0, 1), slice(count - 1, count)):
            alone = to_grey_levels(spec, run_session(self._model, session, take_rows(feeds, row)))
            difference = float(np.abs(alone - to_grey_levels(spec, together[row])).max())
            if not difference <= min(self._tolerance, ALONE_TOLERANCE) * _ROUNDING:
                raise not_proved(
                    self._model,
                    f"in a batch of {count} an image is {difference:.4g} grey levels from what it is alone: "
                    "is a normalisation using the batch's own statistics?",
                )

    def proof(self, real_images: int) -> Proof:
        """Return the figures of all comparisons; `real_images` is how many inputs were real images."""
        within = int(np.searchsorted(np.cumsum(self._histogram), _QUANTILE * self._count)) / _BINS_PER_LEVEL
        psnr = _psnr(self._squares, self._count)
        return Proof(
            tolerance=_rounded(self._tolerance),
            replay_tolerance=self._target.replay_tolerance,
            max_grey_diff=_rounded(self._largest),
            p999_grey_diff=_rounded(within),
            psnr=None if psnr is None else round(psnr, 2),
            shapes=tuple(dict.fromkeys(self._shapes)),
            real_images=real_images,
            onnxruntime=onnxruntime.__version__,
            reference=self._model.reference.name,
        )

    def _add(self, differences: NDArray[Any], worst: float, squares: float) -> None:
        self._largest = max(self._largest, worst)
        self._squares += squares
        self._count += differences.size
        bins = np.minimum(np.ceil(differences * _BINS_PER_LEVEL), _BINS_PER_LEVEL * GREY_LEVELS).astype(np.int64)
        self._histogram += np.bincount(bins.ravel(), minlength=len(self._histogram))

    def _fail(self, folder: Path, feeds: Feeds, reason: str) -> None:
        self.failures.append((folder, feeds))
        self.errors.append(ProofError(reason))


def _psnr(squares: float, count: int) -> float | None:
    """Return the peak signal-to-noise ratio in dB; None if there is no difference."""
    return 10 * math.log10(GREY_LEVELS**2 * count / squares) if squares else None


def _rounded(levels: float) -> float:
    """Return `levels` rounded to four significant digits."""
    return float(f"{levels:.4g}")
