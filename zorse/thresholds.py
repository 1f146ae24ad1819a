"""Thresholds for the figures of `zorse demo`: a demo whose networks learned nothing fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_FD_RATIO = 0.05
"""The largest Fréchet distance of the trained GAN, as a share of the untrained one's."""
MIN_CLASSES, MIN_CLASS_SHARE = 9, 0.02
"""How many digit classes must each hold at least this share of the generated digits."""
MAX_L1_RATIO = 0.6
"""The largest L1 distance of translated images to the truth, as a share of the untranslated images' distance."""
MAX_GREY_DIFF = 1
"""The largest difference between torch and onnxruntime in grey levels of 255."""


def missed_thresholds(summary: Mapping[str, Any]) -> list[str]:
    """Return one line for each threshold that the demo's `summary` misses.

    A figure that is not a number misses its threshold.
    """
    checks = [*_export_and_serve_checks(summary), *_training_checks(summary)]
    return [line for passed, line in checks if not passed]


def _export_and_serve_checks(summary: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield (passed, message) for the figures that do not depend on the length of the training."""
    for proof in summary["export"]:
        grey = proof["max_grey_diff"]
        yield grey <= MAX_GREY_DIFF, f"export {proof['model']}: max_grey_diff {grey} is more than {MAX_GREY_DIFF}"
    serve = summary["serve"]
    yield (
        serve["errors"] == 0,
        f"serve: {serve['errors']} of {serve['requests']} requests failed, the first: {serve['first_error']}",
    )


def _training_checks(summary: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yield (passed, message) for the figures that show whether the networks learned."""
    gan = summary["gan"]
    trained, limit = gan["fd_trained"], MAX_FD_RATIO * gan["fd_untrained"]
    yield trained <= limit, f"gan: fd_trained {trained:.4g} is not at most {limit:.4g}, {MAX_FD_RATIO} x fd_untrained"
    covered = sum(share >= MIN_CLASS_SHARE for share in gan["class_shares"])
    yield (
        covered >= MIN_CLASSES,
        f"gan: {covered} classes hold at least {MIN_CLASS_SHARE:.0%} of the digits, not {MIN_CLASSES}",
    )
    for direction in ("AtoB", "BtoA"):
        scores = summary["cyclegan"][direction]
        l1, limit, affine = scores["l1_translated"], MAX_L1_RATIO * scores["l1_identity"], scores["l1_affine"]
        figure = f"cyclegan {direction}: l1_translated {l1:.4g}"
        yield l1 <= limit, f"{figure} is not at most {limit:.4g}, {MAX_L1_RATIO} x l1_identity"
        yield l1 < affine, f"{figure} is not below l1_affine {affine:.4g}"
