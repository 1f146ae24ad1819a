"""Counter-based random numbers: every draw is a pure function of (seed, stream, number), never of earlier draws.

A stream is named by a string that says what its draws are for, such as "order/A" or "latent/generator"; two streams of
one seed are independent. The generator is Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def counter_rng(seed: int, stream: str, number: int) -> np.random.Generator:
    """Return the generator of item `number` (0 ≤ number < 2⁶⁴) of `stream` under `seed` (0 ≤ seed < 2¹²⁸)."""
    # Philox counts its own blocks in word 0: number and stream are in words that the draws never reach.
    counter = np.array([0, 0, number, _stream_word(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def normal(seed: int, stream: str, numbers: Iterable[int], dim: int) -> NDArray[np.float32]:
    """Return one row of independent standard normal values for each of `numbers`: float32 [n, dim]."""
    places, word = list(numbers), _stream_word(stream)
    rows = np.empty((len(places), dim), dtype=np.float32)
    for row, number in zip(rows, places, strict=True):
        _THREAD.generator_at(seed, word, int(number)).standard_normal(dtype=np.float32, out=row)
    return rows


def integers(seed: int, stream: str, numbers: Iterable[int], high: int) -> NDArray[np.int64]:
    """Return one integer in [0, high), each equally likely, for each of `numbers`: int64 [n]."""
    draws = [counter_rng(seed, stream, int(number)).integers(high) for number in numbers]
    return np.array(draws, dtype=np.int64)


class _ReusedGenerator(threading.local):
    """A generator of this thread, which is set to the start of an item. Making one takes ten times as long."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0, counter=0)
        self._generator = np.random.Generator(self._philox)
        self._start: Any = self._philox.state
        """The state before the first draw."""

    def generator_at(self, seed: int, word: int, number: int) -> np.random.Generator:
        """Return what `counter_rng` returns, to be used before the next call in this thread."""
        self._start["state"]["key"][:] = seed & _WORD, seed >> 64
        self._start["state"]["counter"][2:] = number, word
        self._philox.state = self._start
        return self._generator


_WORD = 2**64 - 1
_THREAD = _ReusedGenerator()


@lru_cache(maxsize=256)
def _stream_word(stream: str) -> int:
    """Return the first 8 bytes of the SHA-256 of the stream's name as an integer."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8])
