"""Batch norm over all ranks against PyTorch's batch norm of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from trainer.models.norm import GlobalBatchNorm2d

SHARES = (1, 2, 3)
"""Images of each rank."""
STEPS = 2


def _step(norm: nn.BatchNorm2d, step: int, images: slice) -> dict[str, Tensor]:
    """Return tensors of one forward and backward pass over some images of a fixed batch of six: [c] or [b, c, h, w]."""
    draw = torch.Generator().manual_seed(step)
    x = (torch.randn(6, 4, 5, 3, generator=draw) * 3 + 2)[images].requires_grad_()
    gradient = torch.randn(6, 4, 5, 3, generator=draw)[images]
    norm.zero_grad()
    y = norm(x)
    torch.autograd.backward(y, gradient)
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    statistics = {f"{step}.{name}": buffer.clone() for name, buffer in norm.named_buffers()}
    return statistics | {
        f"{step}.output": y.detach(),
        f"{step}.on_input": x.grad,
        f"{step}.on_weight": norm.weight.grad.clone(),
        f"{step}.on_bias": norm.bias.grad.clone(),
    }


def _steps(norm: nn.BatchNorm2d, images: slice) -> dict[str, Tensor]:
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 4))
        norm.bias.copy_(torch.linspace(-3, 1, 4))
    return {key: value for step in range(STEPS) for key, value in _step(norm, step, images).items()}


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARES))
    start = sum(SHARES[:rank])
    torch.save(_steps(GlobalBatchNorm2d(4), slice(start, start + SHARES[rank])), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_norm_in_one_process_is_pytorchs_batch_norm() -> None:
    ours, theirs = GlobalBatchNorm2d(4), nn.BatchNorm2d(4)
    torch.testing.assert_close(_steps(ours, slice(None)), _steps(theirs, slice(None)), rtol=0, atol=0)
    x = torch.randn(2, 4, 5, 3)
    assert ours.eval()(x).equal(theirs.eval()(x))


@pytest.mark.slow
def test_norm_on_ranks_with_unequal_numbers_of_images_is_that_of_one_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=len(SHARES))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]
    together = {key: _together(key.split(".")[1], [rank[key] for rank in ranks]) for key in ranks[0]}
    torch.testing.assert_close(together, _steps(nn.BatchNorm2d(4), slice(None)), rtol=1e-5, atol=1e-5)


def _together(name: str, parts: list[Tensor]) -> Tensor:
    """Join the ranks' tensors to those of one process: images side by side, gradients of parameters summed."""
    if name in ("output", "on_input"):
        return torch.cat(parts)
    if name in ("on_weight", "on_bias"):
        return torch.stack(parts).sum(0)
    assert all(part.equal(parts[0]) for part in parts), name
    return parts[0]
