"""The exponential moving average of the generators (Karras et al. 2018, section 4)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """An averaged copy of `networks` whose memory halves every `half_life_images`."""

    def __init__(self, networks: nn.ModuleDict, half_life_images: float) -> None:
        self.networks = copy.deepcopy(networks).requires_grad_(False).eval()
        self._followed, self._half_life = networks, half_life_images

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Move towards the networks as they are now, after a step of `images` images, `seen` images into the run.

        Early in the run the half-life is a tenth of what was seen, so that the first weights are forgotten.
        Running statistics are averaged as weights are; counters are copied.
        """
        half_life = min(self._half_life, 0.1 * seen) or 1e-9
        weight = 1 - 0.5 ** (images / half_life)
        current = self._followed.state_dict()
        for name, average in self.networks.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name].to(average.dtype), weight)
            else:
                average.copy_(current[name])
