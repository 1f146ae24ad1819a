"""Wraps a network into a graph that takes latent codes or stored images and returns stored images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.errors import UnsupportedGraphError
from export.interface import DEFAULT_MAX_SIZE, AxisLimits, Interface, SizeLimits
from export.pixels import BYTES, Pixels, generator_interface, translator_interface
from trainer.models.base import Generator, Translator

_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


class ImageGraph(nn.Module):
    """The exported module of a generator: a network, and the conversion of its images to stored values.

    The inputs are latent codes, float32 [b, latent_dim], and, for a conditional generator, labels, int64 [b].
    """

    def __init__(self, network: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.network, self.pixels = network, pixels

    def values(self, *inputs: Tensor) -> Tensor:
        """Return the network's image before rounding, float32 [b, c, h, w] in -1..1."""
        values: Tensor = self.network(*inputs)
        return values

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the image, [b, h, w, c]; values outside the range are clipped."""
        low, high = self.pixels.bounds
        image = (self.values(*inputs) + 1) * ((high - low) / 2)
        if low:
            image = image + low
        if self.pixels.whole:
            image = image.round()
        return image.clamp(low, high).to(_DTYPES[self.pixels.dtype]).permute(0, 2, 3, 1)


class TranslatorGraph(ImageGraph):
    """The exported module of a translator: its input is stored images, [b, h, w, c]."""

    def values(self, *inputs: Tensor) -> Tensor:
        """Return the translated image before rounding, float32 [b, c, h, w] in -1..1."""
        (source,), (low, high) = inputs, self.pixels.bounds
        image = source.permute(0, 3, 1, 2).to(torch.float32)
        return super().values((image - low if low else image) / ((high - low) / 2) - 1)


@dataclass(frozen=True)
class TraceableModel:
    """A module that is ready to be traced, with its interface.

    `example` is one legal input of batch 2 for each input of the interface. `training_size` is the height and width of
    the training images, in pixels.
    """

    graph: ImageGraph
    interface: Interface
    example: tuple[Tensor, ...]
    training_size: int


def wrap(
    network: nn.Module,
    name: str,
    *,
    training_size: int,
    pixels: Pixels = BYTES,
    max_size: int | None = None,
    labels: Sequence[str] | None = None,
) -> TraceableModel:
    """Add pre- and post-processing to `network`; `name` is for messages.

    `max_size` is the largest height and width that a translator declares; the default is twice the `training_size` and
    at least 512. `labels` are the names of a conditional generator's classes; the default is "0", "1", ….

    Raises:
        UnsupportedGraphError: `network` is neither a generator nor a translator, `max_size` is under its smallest
            image, or `labels` do not fit its classes.
    """
    if not isinstance(network, Generator | Translator):
        raise UnsupportedGraphError(
            f"{name} ({type(network).__name__}) is neither a generator nor a translator: "
            "give it the attributes that trainer.models.base asks for"
        )
    names = _class_names(getattr(network, "classes", None), name, labels)
    if isinstance(network, Generator):
        size = network.size
        interface = generator_interface(pixels, "batch", network.latent_dim, (size, size, network.channels), names)
        latent, label = torch.zeros(2, network.latent_dim), torch.zeros(2, dtype=torch.int64)
        example = (latent,) if names is None else (latent, label)
        return TraceableModel(ImageGraph(network, pixels).eval(), interface, example, size)
    limits = _limits(network, name, max_size or max(2 * training_size, DEFAULT_MAX_SIZE))
    axes = ("batch", "height", "width", network.in_channels)
    interface = translator_interface(pixels, axes, network.out_channels, limits, network.scale)
    example = (_example_image(network, limits.height, pixels),)
    return TraceableModel(TranslatorGraph(network, pixels).eval(), interface, example, training_size)


def _class_names(classes: int | None, name: str, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        if labels is not None:
            raise UnsupportedGraphError(f"{name} is no conditional generator and has no classes: leave its labels out")
        return None
    if classes < 2:
        raise UnsupportedGraphError(f"{name} has {classes} classes: a conditional generator needs 2 or more")
    names = tuple(map(str, range(classes))) if labels is None else tuple(labels)
    if len(names) != classes or len(set(names)) != classes:
        raise UnsupportedGraphError(
            f"{name} has {classes} classes and {len(set(names))} different labels: give one each"
        )
    return names


def _limits(network: Translator, name: str, maximum: int) -> SizeLimits:
    multiple = network.size_multiple
    largest = maximum // multiple * multiple
    if largest < network.minimum_size:
        raise UnsupportedGraphError(
            f"{name} needs images of {network.minimum_size} pixels a side and the maximum is {maximum}: "
            "give a larger --max-size"
        )
    return SizeLimits.square(multiple, network.minimum_size, largest)


def _example_image(network: Translator, limits: AxisLimits, pixels: Pixels) -> Tensor:
    # Height and width differ from each other and from 1, or the exporter would take them for constants or for one axis.
    height = limits.legal(32)
    width = max(limits.legal(height + limits.multiple), height + limits.multiple)
    return torch.full((2, height, width, network.in_channels), pixels.low, dtype=_DTYPES[pixels.dtype])
