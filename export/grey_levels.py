"""Converts images between their stored values and grey levels 0..255, in which all differences are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.interface import TensorSpec
from export.manifest import GREY_LEVELS


def value_bounds(spec: TensorSpec) -> tuple[float, float]:
    """Return the values of black and white, which every image has."""
    assert spec.value_range is not None
    return spec.value_range


def grey_step(spec: TensorSpec) -> float:
    """Return the distance in grey levels between two neighbouring values of the dtype; 0 for floats."""
    low, high = value_bounds(spec)
    return 0.0 if spec.dtype == "float32" else GREY_LEVELS / (high - low)


def to_grey_levels(spec: TensorSpec, images: NDArray[Any]) -> NDArray[np.float64]:
    """Return stored images in grey levels."""
    low, high = value_bounds(spec)
    return (images.astype(np.float64) - low) * (GREY_LEVELS / (high - low))


def as_stored(spec: TensorSpec, levels: NDArray[Any]) -> NDArray[np.float64]:
    """Round grey levels to the steps of the dtype and clip them to 0..255, as storing them would."""
    if step := grey_step(spec):
        levels = np.round(np.asarray(levels, np.float64) / step) * step
    clipped: NDArray[np.float64] = np.clip(np.asarray(levels, np.float64), 0, GREY_LEVELS)
    return clipped


def from_grey_levels(spec: TensorSpec, levels: NDArray[Any]) -> NDArray[Any]:
    """Return grey levels as images of the dtype."""
    low, high = value_bounds(spec)
    values = levels * ((high - low) / GREY_LEVELS) + low
    return (values if spec.dtype == "float32" else np.round(values)).astype(spec.dtype)
