"""Normalisation layers, among them a batch norm over the images of all ranks."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm

Norm = Literal["batch", "instance", "none"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy 2015) over the images of all ranks.

    W ranks of b images each train like one rank of W·b images. Unlike `torch.nn.SyncBatchNorm` this layer also runs on
    the CPU, and ranks may have different numbers of images. With one rank, or in evaluation mode, it is
    `torch.nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, [b, c, h, w]. The statistics are computed in float32."""
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        normalised, mean, variance, count = _Normalise.apply(x.float(), self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self._update_running_statistics(mean, unbiased)
        output: Tensor = normalised.to(x.dtype)
        return output

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards a batch's mean and unbiased variance, both [c]."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # With `momentum` None the running statistics are the means over all batches, as in torch.nn.BatchNorm2d.
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _Normalise(torch.autograd.Function):
    """Batch norm of x, [b, c, h, w], with one collective operation forward and one backward.

    Per channel, with the mean μ, the variance v and the number m of the values of all ranks:

        x̂ = (x − μ) / √(v + ε),   y = γ x̂ + β

    γ is `weight` and β is `bias`, both [c]. The outputs are y, μ, v (biased) and m.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # This rank's mean and biased variance, as torch.var_mean gives them, but several times as fast on the CPU.
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        values = torch.full_like(mean, x.numel() // x.shape[1])
        means, variances, counts = _gather(torch.stack([mean, variance, values])).unbind(1)  # each [ranks, c]
        count = counts.sum(0)
        share = counts / count
        # The variance of all values is the mean of the ranks' variances plus the variance of the ranks' means, both
        # weighted by the ranks' shares of the values.
        mean = (means * share).sum(0)
        variance = ((variances + (means - mean).square()) * share).sum(0)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of x, γ and β (Ioffe & Szegedy 2015, section 3).

        With g = ∂L/∂y, and sums over the m values of a channel on all ranks:

            ∂L/∂x = γ / √(v + ε) · (g − Σg / m − x̂ · Σ(g x̂) / m)

        PyTorch's kernel for fixed statistics gives the first term, γ g / √(v + ε), and this rank's part of both sums:
        Σ(g x̂) is its gradient of γ, and Σg its gradient of β. The rest is linear in x: with
        x̂ = (x − μ) / √(v + ε), it is −(`slope` · x + `constant`).
        """
        x, weight, mean, variance, count = ctx.saved_tensors
        first_term, sum_gx, sum_g = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        mean_gx, mean_g = _gather(torch.stack([sum_gx, sum_g])).sum(0) / count
        inverse = torch.rsqrt(variance + ctx.eps)
        slope = weight * inverse.square() * mean_gx
        constant = weight * inverse * mean_g - slope * mean
        on_x = torch.addcmul(first_term - constant[:, None, None], x, slope[:, None, None], value=-1)
        # The engine averages the gradients of γ and β over the ranks, like those of all parameters.
        return on_x, sum_gx, sum_g, None


def _gather(x: Tensor) -> Tensor:
    """Return the `x` of each rank, stacked to [ranks, …].

    Compared with a reduction this takes half the latency, and every rank can add up the same values in the same order.
    """
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.stack(parts)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return the layer that `norm` names, for features [b, channels, h, w].

    Instance norm has no learned scale and keeps no running statistics, as in CycleGAN (Zhu et al. 2017, section 7.2).
    """
    if norm == "batch":
        return GlobalBatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.Identity()
