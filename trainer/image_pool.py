"""The history of made images that the discriminator is shown (Shrivastava et al. 2017, section 2.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from zorse_common.random import counter_rng


class ImagePool:
    """A pool of `size` images in all, divided among the slots of the global batch.

    Image number n belongs to slot n mod `global_size`, and each swap is a function of (seed, n): so the pool
    does the same whatever the number of workers, and a slot's part moves with the slot.
    """

    def __init__(self, size: int, global_size: int, seed: int, pool_id: str) -> None:
        """`pool_id`, such as a domain's name, tells the pools of a run apart."""
        self._size, self._global_size, self._seed, self._stream = size, global_size, seed, f"pool/{pool_id}"
        self._slots: dict[int, list[Tensor]] = {}

    def exchange(self, images: Tensor, numbers: Tensor) -> Tensor:
        """For each made image [c, h, w] of `images` the one to show instead: [b, c, h, w], detached.

        While a slot has room its image is kept and shown; after that, with probability ½, an older one comes
        out and the new one takes its place.
        """
        pairs = zip(images.detach(), numbers.tolist(), strict=True)
        return torch.stack([self._exchange_one(image, number).to(image) for image, number in pairs])

    def state(self) -> dict[str, Tensor]:
        """The images held by this worker's slots, as `slot.index` → [c, h, w]."""
        return {f"{slot}.{i}": image for slot, held in self._slots.items() for i, image in enumerate(held)}

    def load(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Hold what `state` has for `slots`, and nothing else; images follow the next ones to their device."""
        places = sorted((tuple(map(int, key.split("."))), key) for key in state)
        self._slots = {}
        for (slot, _), key in places:
            if slot in slots:
                self._slots.setdefault(slot, []).append(state[key].clone())

    def reseed(self, seed: int) -> None:
        """Draw the swaps from another seed from now on."""
        self._seed = seed

    def _exchange_one(self, image: Tensor, number: int) -> Tensor:
        slot = number % self._global_size
        capacity = self._size // self._global_size + (slot < self._size % self._global_size)
        held = self._slots.setdefault(slot, [])
        if len(held) < capacity:
            held.append(image.clone())
            return image
        draw = counter_rng(self._seed, self._stream, number)
        if not held or draw.random() < 0.5:
            return image
        index = int(draw.integers(len(held)))
        shown, held[index] = held[index], image.clone()
        return shown
