"""Conversion between uint8 images and the float tensors of networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.data.base import Image


def stack(images: Sequence[Image]) -> Tensor:
    """Return uint8 images [h, w, c] of equal shape as one contiguous uint8 tensor [n, c, h, w]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def normalize(images: Tensor) -> Tensor:
    """Map a uint8 tensor to float32 of the same shape on the same device, 0..255 to -1..1."""
    return images.float().div_(127.5).sub_(1)


def denormalize(images: Tensor) -> Tensor:
    """Map a float tensor to uint8 of the same shape on the same device: -1..1 to 0..255, clamped and rounded."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def to_tensor(images: Sequence[Image]) -> Tensor:
    """Return uint8 images [h, w, c] of equal shape as one float32 tensor [n, c, h, w] in -1..1 on the CPU."""
    return normalize(stack(images))
