"""The pool of generated images that the discriminator sees (Shrivastava et al. 2017, section 2.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from zorse_common.random import counter_rng


class ImagePool:
    """A pool of `size` images, divided among the slots of the global batch.

    Image number n belongs to slot n mod `global_size`. Each slot has its share of the pool, and each swap is a pure
    function of (seed, n). So the number of workers changes nothing: a worker holds the shares of its slots.
    """

    def __init__(self, size: int, global_size: int, seed: int, pool_id: str) -> None:
        """`pool_id`, such as a domain's name, gives each pool of a run different random numbers."""
        self._size, self._global_size, self._seed, self._stream = size, global_size, seed, f"pool/{pool_id}"
        self._slots: dict[int, list[Tensor]] = {}

    def exchange(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return the images to show to the discriminator in place of the generated `images`: [b, c, h, w], detached.

        `numbers` are the images' numbers, int64 [b]. While a slot has room, an image is stored and shown. Later, with
        probability ½ each, it is shown only, or a random stored image is shown and replaced by it.
        """
        pairs = zip(images.detach(), numbers.tolist(), strict=True)
        return torch.stack([self._exchange_one(image, number).to(image) for image, number in pairs])

    def state(self) -> dict[str, Tensor]:
        """Return the stored images of this worker's slots: [c, h, w] by the name `slot.index`."""
        return {f"{slot}.{i}": image for slot, stored in self._slots.items() for i, image in enumerate(stored)}

    def load(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Store the images that `state` has for `slots`, and no others."""
        places = sorted((tuple(map(int, key.split("."))), key) for key in state)
        self._slots = {}
        for (slot, _), key in places:
            if slot in slots:
                self._slots.setdefault(slot, []).append(state[key].clone())

    def reseed(self, seed: int) -> None:
        """Draw all later swaps from another seed."""
        self._seed = seed

    def _exchange_one(self, image: Tensor, number: int) -> Tensor:
        slot = number % self._global_size
        # Each slot stores `size // global_size` images; the first `size % global_size` slots store one more.
        capacity = self._size // self._global_size + (slot < self._size % self._global_size)
        stored = self._slots.setdefault(slot, [])
        if len(stored) < capacity:
            stored.append(image.clone())
            return image
        draw = counter_rng(self._seed, self._stream, number)
        if not stored or draw.random() < 0.5:
            return image
        index = int(draw.integers(len(stored)))
        shown, stored[index] = stored[index], image.clone()
        return shown
