"""Folds pre- and post-processing into the graph, so that it takes codes or uint8 images and gives uint8 images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.errors import UnsupportedGraphError
from export.manifest import Kind, Latent, SizeLimits
from export.manifest import Tensor as Port
from trainer.models.base import Generator, Translator

MAXIMUM_SIZE = 2048
"""The largest height and width, in pixels, that an artifact declares: it bounds the memory of one request."""
_GREY = (0.0, 255.0)


def grey_levels(values: Tensor) -> Tensor:
    """Float32 [b, c, h, w] in -1..1 as uint8 [b, h, w, c]; what lies outside becomes black or white."""
    return ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class ImageGraph(nn.Module):
    """What is exported: a network whose images are rounded to grey levels.

    As it stands it is given latent codes, float32 [b, latent_dim].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def values(self, given: Tensor) -> Tensor:
        """The network's image before rounding, float32 [b, c, h, w] in -1..1."""
        made: Tensor = self.network(given)
        return made

    def forward(self, given: Tensor) -> Tensor:
        """The image, uint8 [b, h, w, c]."""
        return grey_levels(self.values(given))


class TranslatorGraph(ImageGraph):
    """An `ImageGraph` that is given images, uint8 [b, h, w, c]."""

    def values(self, given: Tensor) -> Tensor:
        """The translated image before rounding, float32 [b, c, h, w] in -1..1."""
        return super().values(given.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1)


@dataclass(frozen=True)
class Wrapped:
    """A graph and its side of the artifact contract.

    `given` is the graph's one input: `latent` float32 [batch, latent.dim] of a generator, `source` uint8
    [batch, height, width, channels] of a translator. `made` is its one output: `image` uint8 [batch, height, width,
    channels], of fixed height and width where a generator makes it. `example` is a legal input of batch 2 to trace
    the graph with. A generator has a `latent`, a translator a `size`.
    """

    graph: ImageGraph
    kind: Kind
    given: Port
    made: Port
    example: Tensor
    latent: Latent | None = None
    size: SizeLimits | None = None


def wrap(network: nn.Module, name: str) -> Wrapped:
    """Fold `network` into a graph that keeps the artifact contract; `name` is for the error's message.

    Raises:
        UnsupportedGraphError: it is neither a generator nor a translator.
    """
    if isinstance(network, Generator):
        return _wrap_generator(network, ImageGraph(network))
    if isinstance(network, Translator):
        return _wrap_translator(network, TranslatorGraph(network))
    raise UnsupportedGraphError(
        f"{name} ({type(network).__name__}) is neither a generator nor a translator: "
        "give it the attributes that trainer.models.base asks for"
    )


def _wrap_generator(network: Generator, graph: ImageGraph) -> Wrapped:
    edge = network.size
    return Wrapped(
        graph.eval(),
        "generator",
        Port("latent", "float32", ("batch", network.latent_dim), "independent standard normal numbers"),
        Port("image", "uint8", ("batch", edge, edge, network.channels), "the generated image", _GREY),
        torch.zeros(2, network.latent_dim),
        latent=Latent(network.latent_dim),
    )


def _wrap_translator(network: Translator, graph: ImageGraph) -> Wrapped:
    multiple = network.size_multiple
    limits = SizeLimits(multiple, network.minimum_size, MAXIMUM_SIZE // multiple * multiple)
    # Height and width differ from each other and from 1, or the exporter would take them for constants or for one axis.
    height, width = limits.legal(32), limits.legal(32) + multiple
    axes = ("batch", "height", "width")
    return Wrapped(
        graph.eval(),
        "translator",
        Port("source", "uint8", (*axes, network.in_channels), "the image to translate", _GREY),
        Port("image", "uint8", (*axes, network.out_channels), "the translated image", _GREY),
        torch.zeros(2, height, width, network.in_channels, dtype=torch.uint8),
        size=limits,
    )
