"""Seed → latent code, counter based: image k of seed s is the same whatever the batch, the process or the machine.

Philox is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def latents(seed: int, first: int, n: int, dim: int) -> NDArray[np.float32]:
    """The codes of images `first` … `first + n - 1` of `seed`: float32 [n, dim], standard normal.

    `seed` is in [0, 2⁶³) and `first + n` at most 2⁶³.
    """
    codes = np.empty((n, dim), dtype=np.float32)
    for row in range(n):
        # Philox counts its own blocks in word 0: the image number sits in a word the draws never reach.
        counter = np.array([0, 0, first + row, 0], dtype=np.uint64)
        codes[row] = np.random.Generator(np.random.Philox(key=seed, counter=counter)).standard_normal(
            dim, dtype=np.float32
        )
    return codes
