"""Seed → latent code: image k of seed s is the same whatever the batch, the process or the machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zorse_common.random import normal


def latents(seed: int, first: int, n: int, dim: int) -> NDArray[np.float32]:
    """Return the codes of images `first` … `first + n - 1` of `seed`: float32 [n, dim], standard normal.

    `seed` is in [0, 2⁶³) and `first + n` at most 2⁶³.
    """
    return normal(seed, "latent/served", range(first, first + n), dim)
