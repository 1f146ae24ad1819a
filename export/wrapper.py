"""Folds pre- and post-processing into the graph, so that it takes codes or stored images and gives stored images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.errors import UnsupportedGraphError
from export.interface import DEFAULT_MAX_SIZE, AxisLimits, DType, Kind, Latent, SizeLimits
from export.interface import TensorSpec as Port
from trainer.models.base import Generator, Translator

_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


@dataclass(frozen=True)
class Pixels:
    """How images are stored: their dtype and the closed interval of values that stands for the network's -1..1."""

    dtype: DType = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        """Raises UnsupportedGraphError where the values do not rise, or the dtype does not have them."""
        ends = {"uint8": (0, 255), "uint16": (0, 65535)}.get(self.dtype, (-math.inf, math.inf))
        rises = math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        broken = self.whole and not (float(self.low).is_integer() and float(self.high).is_integer())
        outside = self.low < ends[0] or self.high > ends[1]
        if not rises or outside or broken or (self.dtype == "uint8" and self.ends != ends):
            raise UnsupportedGraphError(
                f"{self.dtype} images cannot have the values {self.low:g}..{self.high:g}: give a --value-range that "
                f"rises within {ends[0]}..{ends[1]}"
                + (" in whole numbers" if self.whole else "")
                + (", which for bytes is 0..255" if self.dtype == "uint8" else "")
            )

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return self.low, self.high

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are values."""
        return self.dtype != "float32"


BYTES = Pixels()


class ImageGraph(nn.Module):
    """What is exported: a network whose images are brought to their stored values.

    As it stands it is given latent codes, float32 [b, latent_dim].
    """

    def __init__(self, network: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.network, self.pixels = network, pixels

    def values(self, given: Tensor) -> Tensor:
        """The network's image before rounding, float32 [b, c, h, w] in -1..1."""
        made: Tensor = self.network(given)
        return made

    def forward(self, given: Tensor) -> Tensor:
        """The image, [b, h, w, c]; what lies outside the values' range becomes its nearest end."""
        low, high = self.pixels.low, self.pixels.high
        image = (self.values(given) + 1) * ((high - low) / 2)
        if low:
            image = image + low
        if self.pixels.whole:
            image = image.round()
        return image.clamp(low, high).to(_DTYPES[self.pixels.dtype]).permute(0, 2, 3, 1)


class TranslatorGraph(ImageGraph):
    """An `ImageGraph` that is given images, [b, h, w, c]."""

    def values(self, given: Tensor) -> Tensor:
        """The translated image before rounding, float32 [b, c, h, w] in -1..1."""
        low, high = self.pixels.low, self.pixels.high
        image = given.permute(0, 3, 1, 2).to(torch.float32)
        return super().values((image - low if low else image) / ((high - low) / 2) - 1)


@dataclass(frozen=True)
class Wrapped:
    """A graph and its side of the artifact contract.

    `given` is the graph's one input: `latent` float32 [batch, latent.dim] of a generator, `source` [batch, height,
    width, channels] of a translator. `made` is its one output: `image` [batch, height, width, channels], of fixed
    height and width where a generator makes it. `example` is a legal input of batch 2 to trace the graph with, `edge`
    the training images' edge in pixels. A generator has a `latent`, a translator a `size`.
    """

    graph: ImageGraph
    kind: Kind
    given: Port
    made: Port
    example: Tensor
    edge: int
    latent: Latent | None = None
    size: SizeLimits | None = None


def wrap(network: nn.Module, name: str, *, edge: int, pixels: Pixels = BYTES, max_size: int | None = None) -> Wrapped:
    """Fold `network` into a graph that keeps the artifact contract; `name` is for the error's message.

    `max_size` is the largest height and width of a translator's images, by default twice the training images' `edge`
    and at least 512.

    Raises:
        UnsupportedGraphError: it is neither a generator nor a translator, or `max_size` is under its smallest image.
    """
    bounds = (pixels.low, pixels.high)
    if isinstance(network, Generator):
        return Wrapped(
            ImageGraph(network, pixels).eval(),
            "generator",
            Port("latent", "float32", ("batch", network.latent_dim), "independent standard normal numbers"),
            Port("image", pixels.dtype, _axes(network.size, network.channels), "the generated image", bounds),
            torch.zeros(2, network.latent_dim),
            network.size,
            latent=Latent(network.latent_dim),
        )
    if isinstance(network, Translator):
        limits = _limits(network, name, max_size or max(2 * edge, DEFAULT_MAX_SIZE))
        return Wrapped(
            TranslatorGraph(network, pixels).eval(),
            "translator",
            Port("source", pixels.dtype, _axes(None, network.in_channels), "the image to translate", bounds),
            Port("image", pixels.dtype, _axes(None, network.out_channels), "the translated image", bounds),
            _example(network, limits.height, pixels),
            edge,
            size=limits,
        )
    raise UnsupportedGraphError(
        f"{name} ({type(network).__name__}) is neither a generator nor a translator: "
        "give it the attributes that trainer.models.base asks for"
    )


def _axes(edge: int | None, channels: int) -> tuple[int | str, ...]:
    return ("batch", "height", "width", channels) if edge is None else ("batch", edge, edge, channels)


def _limits(network: Translator, name: str, maximum: int) -> SizeLimits:
    multiple = network.size_multiple
    largest = maximum // multiple * multiple
    if largest < network.minimum_size:
        raise UnsupportedGraphError(
            f"{name} needs images of {network.minimum_size} pixels a side and {maximum} is the most that was asked "
            "for: give a larger --max-size"
        )
    return SizeLimits.square(multiple, network.minimum_size, largest)


def _example(network: Translator, limits: AxisLimits, pixels: Pixels) -> Tensor:
    # Height and width differ from each other and from 1, or the exporter would take them for constants or for one axis.
    height = limits.legal(32)
    width = max(limits.legal(height + limits.multiple), height + limits.multiple)
    return torch.full((2, height, width, network.in_channels), pixels.low, dtype=_DTYPES[pixels.dtype])
