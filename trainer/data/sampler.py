"""The order in which a run draws its images: a pure function of (seed, stream, number)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zorse_common.random import counter_rng


def sample_index(seed: int, stream: str, number: int, count: int) -> int:
    """Return the index, 0 to count - 1, of the image that is drawn for example `number` of the run.

    The numbers of each epoch, which is `count` numbers long, give each index once, in a random order.
    """
    epoch, position = divmod(number, count)
    return int(_permutation(seed, stream, epoch, count)[position])


# Two domains are in use at once, and around the end of an epoch two epochs of each.
@lru_cache(maxsize=8)
def _permutation(seed: int, stream: str, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of one epoch: int64 [count]."""
    return counter_rng(seed, stream, epoch).permutation(count)
