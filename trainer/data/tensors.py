"""Conversion of uint8 images to the float tensors that networks take."""

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


def to_tensor(images: Sequence[Image]) -> Tensor:
    """Return uint8 images [h, w, c] of equal shape as one float32 tensor [n, c, h, w] in -1..1 on the CPU."""
    return normalize(stack(images))
