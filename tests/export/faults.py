"""Networks with one fault each, as users export them, and one without a fault."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config import Section
from trainer.registry import register

Middle = Callable[[Tensor], Tensor]
MIDDLES: dict[str, Middle] = {
    "none": lambda x: x,
    "functional dropout": lambda x: F.dropout(x, 0.5, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "random brightness": lambda x: x * torch.rand(x.shape[0], 1, 1, 1),
    "statistics of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "mean of the batch": lambda x: x - 4 * x.mean(0, keepdim=True),
    "float64": lambda x: (x.double() * 2).float(),
    "number of bright values": lambda x: x[x > 0.5].sum() + x,
    "branch on a value": lambda x: x * 2 if bool(x.mean() > 0) else x,
    "fixed batch": lambda x: x.reshape(2, *x.shape[1:]),
    "fixed channels": lambda x: x[:, [7]],
    "logarithm of nothing": lambda x: torch.log(F.relu(x)),
    "sizes of tensors": lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]),
    "hyperbolic": lambda x: torch.sinh(x),
}


class FaultyTranslator(nn.Module):
    """Two convolutions; between them, or around them, is the fault."""

    class Config(Section):
        """`fault` is one of `MIDDLES`, or what the constructor looks for."""

        fault: str = "none"

    in_channels = out_channels = 3
    size_multiple = minimum_size = 4
    scale = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fault = config.fault
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 3, 3, padding=0 if self.fault == "padding" else 1)
        if self.fault == "not a number":
            self.last.weight.data[0, 0, 0, 0] = float("nan")
        if self.fault == "multiple":
            self.size_multiple = 1

    def train(self, mode: bool = True) -> FaultyTranslator:
        """Some keep dropout alive, which is pix2pix's only noise."""
        super().train(mode)
        if self.fault == "dropout":
            self.middle.train()
        return self

    def forward(self, source: Tensor) -> Tensor:
        """[b, 3, h, w] in -1..1 to the same, if nothing were wrong."""
        x = F.leaky_relu(self.first(source), 0.2)
        if self.fault == "multiple":
            x = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4.0)
        made: Tensor = torch.tanh(self.last(self.middle(MIDDLES.get(self.fault, MIDDLES["none"])(x))))
        orders = {"layout": (0, 2, 3, 1), "swapped axes": (0, 1, 3, 2)}
        return made.permute(orders.get(self.fault, (0, 1, 2, 3)))


class FaultyGenerator(nn.Module):
    """A generator of 4 x 4 images whose middle is `change`."""

    latent_dim, channels, size, classes = 4, 3, 4, None

    def __init__(self, change: Middle = MIDDLES["none"]) -> None:
        super().__init__()
        self.change = change
        self.layer = nn.Linear(4, 48)

    def forward(self, latent: Tensor) -> Tensor:
        """[b, 4] to [b, 3, 4, 4]."""
        return torch.tanh(self.change(self.layer(latent))).reshape(-1, 3, 4, 4)


def register_faulty() -> str:
    """Make `FaultyTranslator` an architecture, and return its name.

    Its default has no fault, so that tests over all registered architectures pass.
    """
    name = "faulty_translator"
    register("model", name)(FaultyTranslator)
    return name
