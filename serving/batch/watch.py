"""Watches what the workers of a batch job have in hand, and notices a job that stands still."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from serving.batch.output import shard_name
from serving.errors import BatchError

NO_PROGRESS_SECONDS = 7200.0
"""How long no image may be done, or no worker start."""
_MOST_NAMED = 4
InHand = dict[int, int]
"""The number of images that are done of each shard in hand."""


class Watch:
    """Shows the images of shards in hand, and ends a job in which no image is done any more."""

    def __init__(
        self,
        in_hand: Callable[[list[int]], InHand | None],
        show: Callable[[int], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._in_hand, self._show, self._clock = in_hand, show, clock
        self._done: list[int] = []
        self._known: InHand = {}
        self._since = clock()

    def done(self, shard: int) -> None:
        """Note that the outcome of a shard arrived."""
        self._done.append(shard)
        self._known.pop(shard, None)
        self._since = self._clock()
        self._show(sum(self._known.values()))

    def check(self) -> None:
        """Look at what is in hand.

        Raises:
            BatchError: for a long time no image was done.
        """
        found = self._in_hand(self._done)
        if found is not None:
            found = {shard: images for shard, images in found.items() if shard not in self._done}
        if found is not None and found != self._known:
            self._known, self._since = found, self._clock()
            self._show(sum(found.values()))
        if self._clock() - self._since > NO_PROGRESS_SECONDS:
            names = [shard_name(shard) for shard in sorted(self._known)]
            more = ", …" if len(names) > _MOST_NAMED else ""
            raise BatchError(
                f"no image was done for {timedelta(seconds=NO_PROGRESS_SECONDS)} h (shards in hand: "
                f"{', '.join(names[:_MOST_NAMED]) or 'none'}{more}): the same command continues the job"
            )
