"""Layers that halve and double images without aliasing.

Zhang 2019, "Making convolutional networks shift-invariant again", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOWN_TAPS = (1.0, 2.0, 1.0)
UP_TAPS = (1.0, 3.0, 3.0, 1.0)


def blur_kernel(taps: tuple[float, ...], total: float) -> Tensor:
    """Return the filter `taps` x `taps`, float32 [n, n] for n taps, scaled so that its elements sum to `total`."""
    row = torch.tensor(taps)
    kernel = row[:, None] * row
    return kernel * (total / kernel.sum())


class BlurDown(nn.Module):
    """Blurs with the taps 1, 2, 1 and keeps every second pixel: [b, channels, h, w] to [b, channels, h / 2, w / 2].

    `h` and `w` are at least 2. The border is padded by reflection.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = blur_kernel(DOWN_TAPS, 1.0).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the height and width of `x`."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.kernel, stride=2, groups=len(self.kernel))


class BlurUp(nn.Module):
    """Inserts zeros between pixels and blurs with the taps 1, 3, 3, 1: [b, channels, h, w] to [b, channels, 2 h, 2 w].

    The border is padded by replication. The filter sums to 4, since one pixel in four is not zero: so an image of one
    grey keeps its grey.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = blur_kernel(UP_TAPS, 4.0).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Double the height and width of `x`."""
        padded = F.pad(x, (1, 1, 1, 1), "replicate")
        # Cut off 1 pixel of the filter's border and 2 pixels of the replicated one, which was doubled too.
        return F.conv_transpose2d(padded, self.kernel, stride=2, padding=1 + 2, groups=len(self.kernel))
