"""The verb `generate`: images of a seed, as one grid or as single files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from export.interface import IMAGE, Interface
from serving import codec
from serving.batching import Tensors
from serving.codec import File
from serving.feeds import Feeds, generator_feeds, latent_dim, latents
from serving.verb import VERBS, Classes, Number, Seed, Verb, VerbRequest
from zorse_common.image_writer import MEDIA_TYPES


class GenerateRequest(VerbRequest):
    """Generate the images `first` … `first + n - 1` of `seed`, as one grid or as a ZIP of single files.

    For a conditional generator `labels` is a class for all images, by name or index, or one for each image; without it
    image k is of class k modulo the number of classes.
    """

    n: int = Field(default=1, ge=1)
    seed: Seed = 0
    first: Number = 0
    labels: Classes | None = None
    format: Literal["png", "jpeg"] = "png"
    layout: Literal["grid", "zip"] = "grid"

    @property
    def count(self) -> int:
        """The number of images."""
        return self.n


def plan(interface: Interface, request: GenerateRequest) -> Feeds:
    """Draw the latents of the images, and find their labels."""
    numbers = range(request.first, request.first + request.n)
    codes = latents(request.seed, numbers, latent_dim(interface, "generate"))
    return generator_feeds(interface, codes, request.labels, numbers)


def render(outputs: Tensors, request: GenerateRequest) -> File:
    """Encode the images as a grid, or as a ZIP whose files are called `<seed>_<number>.<format>`."""
    images = outputs[IMAGE]
    if request.layout == "grid":
        return codec.image_file(codec.grid(images), request.format)
    names = (f"{request.seed}_{request.first + row:06d}.{request.format}" for row in range(len(images)))
    return codec.archive(
        [(name, codec.encode(image, request.format)) for name, image in zip(names, images, strict=True)]
    )


VERBS.register("generate", Verb(GenerateRequest, plan, render, (*MEDIA_TYPES.values(), codec.ZIP)))
