"""Normalisation layers, among them a batch norm whose statistics are those of the global batch on any device."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy 2015) over the images of all ranks, so that W x b images train like W·b on one.

    Unlike `torch.nn.SyncBatchNorm` it also runs on the CPU. Every rank must hold the same number of images.
    With one rank, or in evaluation mode, it is `torch.nn.BatchNorm2d` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, [b, c, h, w]; the statistics are taken in float32."""
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        values = x.float()
        variances, means = torch.var_mean(values, (0, 2, 3), correction=0)
        means, variances = _gather(torch.stack([means, variances])).unbind(1)
        # Every rank has as many values, so the whole's variance is the mean one plus that of the means.
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        count = values.numel() // values.shape[1] * dist.get_world_size()
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = self.momentum if self.momentum is not None else 1.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


class _Gather(torch.autograd.Function):
    """[…] of each rank as [ranks, …]; the gradient is the ranks' sum of what belongs to this one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _gather(x: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The layer that `norm` names, for [b, channels, h, w].

    Instance norm has no learned scale and keeps no running statistics, as in CycleGAN (Zhu et al. 2017).
    """
    if norm == "batch":
        return GlobalBatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.Identity()
