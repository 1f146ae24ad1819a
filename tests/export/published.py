"""Foreign generators as their repositories publish them: state dicts by layout, and the mathematics by the keys.

Written from the layouts alone, without our models: each `run_*` takes a state dict and the network's input and
returns what every layer makes, in order; where a norm follows a convolution the norm's output stands for both.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 4
State = dict[str, Tensor]


@dataclass
class Layout:
    """Draws tensors under published keys.

    `norm` is that of the whole network, `statistics` whether instance norms have those that PyTorch < 0.4 wrote, and
    `early_biases` whether convolutions before batch norms have biases, as in early 2017.
    """

    norm: str = "instance"
    statistics: bool = False
    early_biases: bool = False
    state: State = field(default_factory=OrderedDict)

    def convolution(self, key: str, *shape: int, bias: bool | None = None) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        self.state[f"{key}.weight"] = torch.randn(shape) / fan_in**0.5
        if bias if bias is not None else self.norm == "instance" or self.early_biases:
            self.state[f"{key}.bias"] = torch.randn(shape[0]) * 0.3

    def transposed(self, key: str, *shape: int, bias: bool | None = None) -> None:
        self.convolution(key, *shape, bias=False)
        if bias if bias is not None else self.norm == "instance" or self.early_biases:
            self.state[f"{key}.bias"] = torch.randn(shape[1]) * 0.3

    def normed(self, key: str, channels: int) -> None:
        if self.norm == "batch":
            self.state[f"{key}.weight"] = 1 + 0.2 * torch.randn(channels)
            self.state[f"{key}.bias"] = 0.2 * torch.randn(channels)
        if self.norm == "batch" or self.statistics:
            self.state[f"{key}.running_mean"] = 0.2 * torch.randn(channels)
            self.state[f"{key}.running_var"] = 0.5 + torch.rand(channels)
            self.state[f"{key}.num_batches_tracked"] = torch.tensor(1000)


def resnet(
    blocks: int, *, dropout: bool = False, blur_down: bool = False, blur_up: bool = False, **norm: object
) -> State:
    """The state dict of a residual generator with 3 channels in and 2 out."""
    made, index = Layout(**norm), 4
    made.convolution("model.1", WIDTH, 3, 7, 7)
    made.normed("model.2", WIDTH)
    for given in (WIDTH, 2 * WIDTH):
        made.convolution(f"model.{index}", 2 * given, given, 3, 3)
        made.normed(f"model.{index + 1}", 2 * given)
        if blur_down:
            made.state[f"model.{index + 3}.filt"] = _filter([1, 2, 1], 1).repeat(2 * given, 1, 1, 1)
        index += 4 if blur_down else 3
    for block in range(index, index + blocks):
        for inner in (1, 6 if dropout else 5):
            made.convolution(f"model.{block}.conv_block.{inner}", 4 * WIDTH, 4 * WIDTH, 3, 3)
            made.normed(f"model.{block}.conv_block.{inner + 1}", 4 * WIDTH)
    index += blocks
    for given in (4 * WIDTH, 2 * WIDTH):
        if blur_up:
            made.state[f"model.{index}.filt"] = _filter([1, 3, 3, 1], 4).repeat(given, 1, 1, 1)
            made.convolution(f"model.{index + 1}", given // 2, given, 3, 3)
        else:
            made.transposed(f"model.{index}", given, given // 2, 3, 3)
        index += 1 if blur_up else 0
        made.normed(f"model.{index + 1}", given // 2)
        index += 3
    made.convolution(f"model.{index + 1}", 2, WIDTH, 7, 7, bias=True)
    return made.state


def unet(downs: int, **norm: object) -> State:
    """The state dict of a U-Net with 3 channels in and 2 out; dropout leaves no trace in it."""
    made = Layout(**norm)
    filters = [WIDTH, 2 * WIDTH, 4 * WIDTH, *[8 * WIDTH] * (downs - 3)]
    made.convolution("model.model.0", WIDTH, 3, 4, 4)
    made.transposed("model.model.3", 2 * WIDTH, 2, 4, 4, bias=True)
    prefix = "model.model.1.model"
    for outer, inner in itertools.pairwise(filters[:-1]):
        made.convolution(f"{prefix}.1", inner, outer, 4, 4)
        made.normed(f"{prefix}.2", inner)
        made.transposed(f"{prefix}.5", 2 * inner, outer, 4, 4)
        made.normed(f"{prefix}.6", outer)
        prefix += ".3.model"
    made.convolution(f"{prefix}.1", filters[-1], filters[-2], 4, 4)
    made.transposed(f"{prefix}.3", filters[-1], filters[-2], 4, 4)
    made.normed(f"{prefix}.4", filters[-2])
    return made.state


def dcgan(layers: int = 5, latent: int = 7) -> State:
    """The state dict of the tutorial's generator of 3 channels; with 5 layers it makes 64 px."""
    made = Layout("batch")
    given = latent
    for index in range(layers - 1):
        filters = WIDTH * 2 ** (layers - 2 - index)
        made.transposed(f"main.{3 * index}", given, filters, 4, 4)
        made.normed(f"main.{3 * index + 1}", filters)
        given = filters
    made.transposed(f"main.{3 * layers - 3}", given, 3, 4, 4)
    return made.state


def run_resnet(state: State, norm: str, x: Tensor) -> list[Tensor]:
    """`x` is [b, 3, h, w]."""
    trace: list[Tensor] = []
    indices = sorted({int(key.split(".")[1]) for key in state})
    blocks = [index for index in indices if f"model.{index}.conv_block.1.weight" in state]
    behind = False  # the blocks; a network without any doubles where its filters become fewer
    for index in indices:
        prefix = f"model.{index}"
        weight = state.get(f"{prefix}.weight")
        if index in blocks:
            second = 5 if f"{prefix}.conv_block.5.weight" in state else 6
            inner = F.pad(x, (1, 1, 1, 1), "reflect")
            inner = F.relu(_normed(state, norm, f"{prefix}.conv_block", 1, F.conv2d, inner, trace))
            inner = F.pad(inner, (1, 1, 1, 1), "reflect")
            x = x + _normed(state, norm, f"{prefix}.conv_block", second, F.conv2d, inner, trace)
            behind = True
        elif f"{prefix}.filt" in state:
            x = _blurred(state[f"{prefix}.filt"], x)
            trace.append(x)
        elif weight is None or weight.ndim == 1:
            continue
        elif weight.shape[-1] == 7:
            x = F.pad(x, (3, 3, 3, 3), "reflect")
            if index == indices[-1]:
                trace.append(F.conv2d(x, weight, state[f"{prefix}.bias"]))
                return [*trace, torch.tanh(trace[-1])]
            x = F.relu(_normed(state, norm, "model", index, F.conv2d, x, trace))
        elif behind and f"model.{index - 1}.filt" not in state:
            x = F.relu(
                _normed(
                    state, norm, "model", index, F.conv_transpose2d, x, trace, stride=2, padding=1, output_padding=1
                )
            )
        else:
            stride = 1 if behind or f"model.{index + 3}.filt" in state else 2
            x = F.relu(_normed(state, norm, "model", index, F.conv2d, x, trace, stride=stride, padding=1))
    raise AssertionError("no last layer")


def run_unet(state: State, norm: str, x: Tensor) -> list[Tensor]:
    """`x` is [b, 3, 2**downs, 2**downs] or multiples of it."""
    trace: list[Tensor] = []
    geometry = {"stride": 2, "padding": 1}

    def level(prefix: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(x, 0.2)  # in place in the repository: the skip connection has it too
        innermost = f"{prefix}.5.weight" not in state
        if innermost:
            inner = F.conv2d(x, state[f"{prefix}.1.weight"], state.get(f"{prefix}.1.bias"), **geometry)
            trace.append(inner)
        else:
            inner = _normed(state, norm, prefix, 1, F.conv2d, x, trace, **geometry)
            inner = level(f"{prefix}.3.model", inner)
        up = 3 if innermost else 5
        made = _normed(state, norm, prefix, up, F.conv_transpose2d, F.relu(inner), trace, **geometry)
        return torch.cat([x, made], 1)

    outer = F.conv2d(x, state["model.model.0.weight"], state.get("model.model.0.bias"), **geometry)
    trace.append(outer)
    inner = F.relu(level("model.model.1.model", outer))
    last = F.conv_transpose2d(inner, state["model.model.3.weight"], state["model.model.3.bias"], **geometry)
    return [*trace, last, torch.tanh(last)]


def run_dcgan(state: State, norm: str, x: Tensor) -> list[Tensor]:
    """`x` is [b, latent]."""
    trace: list[Tensor] = []
    indices = [int(found[1]) for key in state if (found := re.fullmatch(r"main\.(\d+)\.running_mean", key))]
    x = x[:, :, None, None]
    for index in indices:
        geometry = {"stride": 1, "padding": 0} if index == 1 else {"stride": 2, "padding": 1}
        x = F.relu(_normed(state, norm, "main", index - 1, F.conv_transpose2d, x, trace, **geometry))
    trace.append(F.conv_transpose2d(x, state[f"main.{indices[-1] + 2}.weight"], stride=2, padding=1))
    return [*trace, torch.tanh(trace[-1])]


def _normed(
    state: State,
    norm: str,
    prefix: str,
    index: int,
    convolve: Callable[..., Tensor],
    x: Tensor,
    trace: list[Tensor],
    **geometry: int,
) -> Tensor:
    made = convolve(x, state[f"{prefix}.{index}.weight"], state.get(f"{prefix}.{index}.bias"), **geometry)
    if norm == "instance":
        made = F.instance_norm(made)
    elif norm == "batch":
        mean, variance, scale, shift = (
            state[f"{prefix}.{index + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        made = F.batch_norm(made, mean, variance, scale, shift)
    trace.append(made)
    return made


def _filter(taps: list[float], total: float) -> Tensor:
    kernel = torch.outer(torch.tensor(taps), torch.tensor(taps))
    return (kernel / kernel.sum() * total)[None, None]


def _blurred(kernel: Tensor, x: Tensor) -> Tensor:
    """Channel by channel, with the border's width published for 3 x 3 (down) and 4 x 4 (up)."""
    channels = len(kernel)
    if kernel.shape[-1] == 3:
        return torch.cat(
            [
                F.conv2d(F.pad(x[:, c : c + 1], (1, 1, 1, 1), "reflect"), kernel[c : c + 1])[:, :, ::2, ::2]
                for c in range(channels)
            ],
            1,
        )
    made = [
        F.conv_transpose2d(F.pad(x[:, c : c + 1], (1, 1, 1, 1), "replicate"), kernel[c : c + 1], stride=2, padding=2)
        for c in range(channels)
    ]
    return torch.cat(made, 1)[:, :, 1:-1, 1:-1]
