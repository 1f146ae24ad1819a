"""The exponential moving average of the generators (Karras et al. 2018, section 4)."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn


class Ema:
    """A copy of `networks` with averaged weights: the influence of a step halves every `half_life_images`.

    Networks must change their buffers in place, as torch's norms do: a buffer that is replaced is no longer averaged.
    """

    def __init__(self, networks: nn.ModuleDict, half_life_images: float) -> None:
        self.networks = copy.deepcopy(networks).requires_grad_(False).eval()
        self._half_life = half_life_images
        averages, values = (
            dict(itertools.chain(each.named_parameters(), each.named_buffers())) for each in (self.networks, networks)
        )
        # Running statistics of norms are averaged like weights. Integer counters are copied.
        floats = [name for name, average in averages.items() if average.is_floating_point()]
        others = [name for name in averages if name not in floats]
        self._averages, self._values = [averages[name] for name in floats], [values[name] for name in floats]
        self._counters = [(averages[name], values[name]) for name in others]

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Move the averages towards the networks' present values, after a step of `images` images.

        average ← β · average + (1 − β) · value, with β = 0.5 ** (images / half-life). Early in the run, `seen` images
        after its start, the half-life is a tenth of `seen`, so that the initial weights lose their influence.
        """
        half_life = min(self._half_life, 0.1 * seen) or 1e-9
        # One kernel for all tensors instead of one for each.
        torch._foreach_lerp_(self._averages, self._values, 1 - 0.5 ** (images / half_life))
        for average, value in self._counters:
            average.copy_(value)
