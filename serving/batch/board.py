"""The Ray actor through which the workers of a job and its driver know what is in hand. It imports no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


class Reports(Protocol):
    """Where a worker tells what it does."""

    def begin(self, shard: int) -> int:
        """Note that the shard is begun. Returns how many processes died with it, not counting those of lost nodes."""

    def report(self, shard: int, images: int) -> None:
        """Note that so many images of the shard are done."""


@dataclass(frozen=True)
class _InHand:
    """A shard that is begun: where, after how many deaths, and how many of its images are done."""

    node: str
    deaths: int
    images: int = 0


class Board:
    """Notes which shards are in hand. A shard that is begun again was in hand of a process that died."""

    def __init__(self, is_alive: Callable[[str], bool]) -> None:
        """`is_alive` returns whether a node is alive."""
        self._is_alive = is_alive
        self._shards: dict[int, _InHand] = {}

    def begin(self, shard: int, node: str) -> int:
        """See `Reports`. `node` is where the worker runs."""
        before = self._shards.get(shard)
        deaths = 0 if before is None else before.deaths + self._is_alive(before.node)
        self._shards[shard] = _InHand(node, deaths)
        return deaths

    def report(self, shard: int, images: int) -> None:
        """See `Reports`."""
        if shard in self._shards:
            self._shards[shard] = _InHand(self._shards[shard].node, self._shards[shard].deaths, images)

    def in_hand(self, done: Iterable[int]) -> dict[int, int]:
        """Forget the shards `done`, and return the number of images that are done of each other one."""
        for shard in done:
            self._shards.pop(shard, None)
        return {shard: one.images for shard, one in self._shards.items()}
