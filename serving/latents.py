"""Latents from seeds: image k of seed s has the same latent in every batch, process and machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from zorse_common.random import normal


def latents(seed: int, numbers: Iterable[int], dim: int) -> NDArray[np.float32]:
    """Return the latents of the images `numbers` of `seed`: float32 [n, dim], standard normal.

    `seed` and every number are in [0, 2⁶³).
    """
    return normal(seed, "latent/served", numbers, dim)
