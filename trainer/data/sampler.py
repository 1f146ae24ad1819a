"""The order in which a run sees its images: a pure function of (seed, stream, position)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zorse_common.random import counter_rng


def position_to_index(seed: int, stream: str, number: int, count: int) -> int:
    """Which of `count` images is seen at position `number` of the run: each once in every `count` positions."""
    epoch, place = divmod(number, count)
    return int(_permutation(seed, stream, epoch, count)[place])


# Two domains, and at an epoch's border two epochs, are in use at once.
@lru_cache(maxsize=8)
def _permutation(seed: int, stream: str, epoch: int, count: int) -> NDArray[np.int64]:
    return counter_rng(seed, stream, epoch).permutation(count)
