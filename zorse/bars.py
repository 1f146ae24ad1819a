"""The bars that the demo's figures must clear, so that a demo whose networks learned nothing fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST_FD_SHARE = 0.05
LEAST_CLASSES, LEAST_SHARE = 9, 0.02
MOST_L1_SHARE = 0.6
MOST_GREY_DIFF = 1


def missed_bars(summary: Mapping[str, Any]) -> list[str]:
    """Return one line for each bar that the demo's `summary` misses.

    A figure that is not a number misses its bar.
    """
    bars = [*_exact(summary), *_learned(summary)]
    return [line for cleared, line in bars if not cleared]


def _exact(summary: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """The bars that hold however short the training was."""
    for proof in summary["export"]:
        grey = proof["max_grey_diff"]
        yield grey <= MOST_GREY_DIFF, f"export {proof['model']}: max_grey_diff {grey} is more than {MOST_GREY_DIFF}"
    serve = summary["serve"]
    yield (
        serve["errors"] == 0,
        f"serve: {serve['errors']} of {serve['requests']} requests failed, the first: {serve['first_error']}",
    )


def _learned(summary: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    gan = summary["gan"]
    trained, most = gan["fd_trained"], MOST_FD_SHARE * gan["fd_untrained"]
    yield trained <= most, f"gan: fd_trained {trained:.4g} is not at most {most:.4g}, {MOST_FD_SHARE} x fd_untrained"
    covered = sum(share >= LEAST_SHARE for share in gan["class_shares"])
    yield (
        covered >= LEAST_CLASSES,
        f"gan: {covered} classes hold at least {LEAST_SHARE:.0%} of the digits, not {LEAST_CLASSES}",
    )
    for direction in ("AtoB", "BtoA"):
        scores = summary["cyclegan"][direction]
        l1, most, affine = scores["l1_translated"], MOST_L1_SHARE * scores["l1_identity"], scores["l1_affine"]
        what = f"cyclegan {direction}: l1_translated {l1:.4g}"
        yield l1 <= most, f"{what} is not at most {most:.4g}, {MOST_L1_SHARE} x l1_identity"
        yield l1 < affine, f"{what} is not below l1_affine {affine:.4g}"
