"""Normalisation layers, among them a batch norm whose statistics are those of the global batch on any device."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm

Norm = Literal["batch", "instance", "none"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy 2015) over the images of all ranks, so that W x b images train like W·b on one.

    Unlike `torch.nn.SyncBatchNorm` it also runs on the CPU, and ranks may hold different numbers of images. With one
    rank, or in evaluation mode, it is `torch.nn.BatchNorm2d` itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, [b, c, h, w]; the statistics are taken in float32."""
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        normalised, mean, variance, count = _Normalise.apply(x.float(), self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            self._follow(mean, variance * (count / (count - 1).clamp_min(1)))
        output: Tensor = normalised.to(x.dtype)
        return output

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards a batch's mean and unbiased variance, both [c]."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum they are the mean over all batches.
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _Normalise(torch.autograd.Function):
    """Batch norm with one collective in each direction; also returns the global mean, (biased) variance and count, [c].

    The backward pass is equation 6 of Ioffe & Szegedy: with fixed statistics PyTorch's kernel gives the first
    term and the two sums over the images that the others need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The same figures as torch.var_mean, several times as fast on the CPU.
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        values = torch.full_like(mean, x.numel() // x.shape[1])
        means, variances, counts = _gather(torch.stack([mean, variance, values])).unbind(1)
        count = counts.sum(0)
        share = counts / count
        # The whole's variance is the mean one of the ranks plus that of their means.
        mean = (means * share).sum(0)
        variance = ((variances + (means - mean).square()) * share).sum(0)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        on_x, on_weight, on_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = _gather(torch.stack([on_weight, on_bias])).sum(0)
        along, offset = sums / count
        inverse = torch.rsqrt(variance + ctx.eps)
        slope = weight * inverse.square() * along
        constant = weight * inverse * offset - slope * mean
        on_x = torch.addcmul(on_x - constant[:, None, None], x, slope[:, None, None], value=-1)
        return on_x, on_weight, on_bias, None


def _gather(x: Tensor) -> Tensor:
    """[…] of each rank as [ranks, …]: half the delay of a reduction, and the same bits on every rank."""
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.stack(parts)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The layer that `norm` names, for [b, channels, h, w].

    Instance norm has no learned scale and keeps no running statistics, as in CycleGAN (Zhu et al. 2017).
    """
    if norm == "batch":
        return GlobalBatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.Identity()
