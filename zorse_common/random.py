"""Counter-based random numbers: every draw is a pure function of (seed, stream, number), never of earlier draws.

The generator is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What a draw is for. Two streams of one seed are independent."""

    SERVED_LATENT = 0
    ORDER_A = 1
    ORDER_B = 2
    AUGMENT_A = 3
    AUGMENT_B = 4
    LATENT_GENERATOR = 5
    LATENT_DISCRIMINATOR = 6
    POOL = 7
    MADE_IMAGE = 8
    SAMPLES = 9
    SPLIT = 10
    METRIC = 11


def counter_rng(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """Return the generator of item `number` (0 ≤ number < 2⁶⁴) of `stream` under `seed` (0 ≤ seed < 2¹²⁸)."""
    # Philox counts its own blocks in word 0: number and stream sit in words the draws never reach.
    counter = np.array([0, 0, number, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def normal(seed: int, stream: Stream, numbers: Iterable[int], dim: int) -> NDArray[np.float32]:
    """Return one row of independent standard normal values for each of `numbers`: float32 [n, dim]."""
    rows = [counter_rng(seed, stream, int(number)).standard_normal(dim, dtype=np.float32) for number in numbers]
    return np.stack(rows) if rows else np.empty((0, dim), dtype=np.float32)
