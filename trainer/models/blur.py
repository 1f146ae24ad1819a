"""Anti-aliased halving and doubling (Zhang 2019, "Making convolutional networks shift-invariant again", section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOWN_TAPS = (1.0, 2.0, 1.0)
UP_TAPS = (1.0, 3.0, 3.0, 1.0)


def blur_kernel(taps: tuple[float, ...], total: float) -> Tensor:
    """The separable low-pass filter of `taps`, float32 [taps, taps], whose elements add up to `total`."""
    row = torch.tensor(taps)
    kernel = row[:, None] * row
    return kernel * (total / kernel.sum())


class BlurDown(nn.Module):
    """Blurs with the taps 1, 2, 1 and takes every second pixel: [b, channels, h, w] to [b, channels, h / 2, w / 2].

    `h` and `w` are at least 2; the border is reflected.
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
    """Puts zeros between the pixels and blurs with the taps 1, 3, 3, 1: [b, channels, h, w] to twice `h` and `w`.

    The border is replicated; a plane stays as bright as it was.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = blur_kernel(UP_TAPS, 4.0).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Double the height and width of `x`."""
        padded = F.pad(x, (1, 1, 1, 1), "replicate")
        # 1 is the filter's own border and 2 the replicated pixel, doubled.
        return F.conv_transpose2d(padded, self.kernel, stride=2, padding=1 + 2, groups=len(self.kernel))
