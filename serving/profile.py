"""Measures how long a model's runs take, from which a server chooses where and with how many rows to run it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

INLINE_SECONDS = 0.0015
"""A run that is shorter does not delay the other work of an event loop noticeably."""
GOOD_THROUGHPUT = 0.9
"""The part of the best throughput that is good enough. The last tenth would cost twice the rows, and latency."""
BUDGET_SECONDS = 0.8
"""How long the measurement of a model may take. The runs of one row are made in any case."""
_REPEATS, _SHARE = 5, 0.1


@dataclass(frozen=True)
class Profile:
    """The measured times of a model's runs.

    `timings` are pairs of a number of rows and the seconds of a run, both rising. Each source image that was measured
    had `pixels` = height × width pixels; 0 stands for a generator. `heaviest` is the (rows, pixels) of the heaviest run
    that the server's settings and the model's limits allow.
    """

    timings: tuple[tuple[int, float], ...]
    heaviest: tuple[int, int]
    pixels: int = 0

    def seconds(self, rows: int, pixels: int = 0) -> float:
        """Return the expected seconds of one run of `rows` images, of `pixels` source pixels each (0: a generator).

        The estimate is linear between the measured points and below them. Beyond the last point the seconds rise in
        proportion to the rows: a line through two points that noise made equal would call any run short. An image with
        twice the pixels counts as two rows.
        """
        work = rows * pixels / self.pixels if self.pixels else float(rows)
        most, longest = self.timings[-1]
        if len(self.timings) == 1 or work >= most:
            return longest * work / most
        index = max(1, bisect_left(self.timings, work, key=lambda timing: timing[0]))
        (low, short), (high, long) = self.timings[index - 1 : index + 1]
        return max(0.0, short + (long - short) * (work - low) / (high - low))

    def cost(self, rows: int, pixels: int = 0) -> float:
        """Return the seconds that `rows` images add to the work in progress, run in batches of `max_useful_rows`."""
        return self.seconds(self.max_useful_rows, pixels) * rows / self.max_useful_rows

    @cached_property
    def batch_seconds(self) -> float:
        """The seconds of a run of `max_useful_rows` images of the measured size."""
        return self.seconds(self.max_useful_rows, self.pixels)

    @cached_property
    def inline(self) -> bool:
        """Whether even the heaviest run is short enough to be made on an event loop, without a thread."""
        return self.seconds(*self.heaviest) < INLINE_SECONDS

    @cached_property
    def max_useful_rows(self) -> int:
        """The smallest measured number of rows that has `GOOD_THROUGHPUT`; more rows in one run do not pay.

        It is 1 for a model whose throughput does not rise with the batch. It holds for images of the measured size.
        """
        throughputs = [(rows, rows / seconds if seconds else float("inf")) for rows, seconds in self.timings]
        best = max(throughput for _, throughput in throughputs)
        return next(rows for rows, throughput in throughputs if throughput >= GOOD_THROUGHPUT * best)


def fit(seconds: Mapping[int, float], heaviest: tuple[int, int], pixels: int = 0) -> Profile:
    """Return the profile of the measured `seconds` by number of rows. See `Profile` for the other arguments.

    More rows never count as faster than fewer: such a measurement is noise.
    """
    rows = sorted(seconds)
    rising = accumulate((seconds[count] for count in rows), max)
    return Profile(tuple(zip(rows, rising, strict=True)), heaviest, pixels)


def measure(
    run: Callable[[int], object],
    rows: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
    budget: float = BUDGET_SECONDS,
) -> dict[int, float]:
    """Return the seconds of `run(n)` for the numbers `n` of `rows`, which rise, as far as the `budget` in seconds goes.

    Each number is run once to warm up, and then up to `_REPEATS` times, once if that takes more than `_SHARE` of the
    budget. The shortest time counts, since whatever else the machine does only lengthens it.
    """
    end = clock() + budget
    found: dict[int, float] = {}
    for count in rows:
        if found and clock() + 2 * _predicted(found, count) > end:
            break
        run(count)
        times: list[float] = []
        last = clock() + _SHARE * budget
        while not times or (len(times) < _REPEATS and clock() + times[-1] < min(last, end)):
            began = clock()
            run(count)
            times.append(clock() - began)
        found[count] = min(times)
    return found


def _predicted(found: Mapping[int, float], count: int) -> float:
    last = max(found)
    return found[last] * count / last


def doublings(limit: int) -> list[int]:
    """Return 1, 2, 4, … below `limit`, and `limit`."""
    powers = [2**exponent for exponent in range(limit.bit_length())]
    return [*(power for power in powers if power < limit), limit]
