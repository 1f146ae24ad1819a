"""Counter-based randomness: every draw is a pure function of (seed, stream, number), never of what came before.

Philox is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a draw is for; two streams of one seed are independent."""

    WEIGHTS = 0
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
    """The generator for item `number` (0 ≤ number < 2⁶⁴) of `stream` under `seed`."""
    # Philox counts its own blocks in word 0: number and stream sit in words the draws never reach.
    counter = np.array([0, 0, number, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def normal(seed: int, stream: Stream, numbers: np.ndarray, dim: int) -> np.ndarray:
    """Standard normal rows for `numbers` (int [n]): float32 [n, dim]."""
    return np.stack([counter_rng(seed, stream, int(n)).standard_normal(dim, dtype=np.float32) for n in numbers])
