"""The verb `generate`: the images of a seed, or of latents that the request has."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from export.feeds import Feeds
from export.interface import IMAGE, Interface
from serving.answers import Fact, Pictures
from serving.feeds import codes, generator_feeds, latent_dim, latents
from serving.verb import VERBS, Classes, Code, Number, Outputs, PictureRequest, Seed, Verb


class GenerateRequest(PictureRequest):
    """Generate the images `first` … `first + n - 1` of `seed`, or those of `latents`, as a grid, a ZIP or an array.

    `truncation` ψ < 1 makes more usual and less varied images. For a conditional generator `labels` is a class for all
    images, by name or index, or one for each image; without it image k is of class k modulo the number of classes.
    """

    n: int = Field(default=1, ge=1)
    seed: Seed = 0
    first: Number = 0
    latents: Annotated[list[Code], Field(min_length=1, fail_fast=True)] | None = None
    truncation: float = Field(default=1.0, gt=0, le=1)
    labels: Classes | None = None
    format: Literal["png", "jpeg", "webp", "npy"] = "png"

    @property
    def count(self) -> int:
        """The number of images."""
        return self.n if self.latents is None else len(self.latents)

    @model_validator(mode="after")
    def _check_latents(self) -> Self:
        if self.latents is not None:
            for key in ("n", "seed", "first", "truncation"):
                if key in self.model_fields_set:
                    raise PydanticCustomError("two_ways", "latents say what to generate: leave {key} out", {"key": key})
        return self


def plan(interface: Interface, request: GenerateRequest) -> list[Feeds]:
    """Draw the latents of the images, and find their labels.

    Truncation multiplies the latents by ψ. That is StyleGAN's truncation trick, w̄ + ψ (w - w̄) (Karras et al., "A
    style-based generator architecture for generative adversarial networks", CVPR 2019, appendix B), for latents that
    are normal numbers with mean 0. Unlike the drawing of values anew until they are small (Brock et al., "Large scale
    GAN training", ICLR 2019) it keeps which image a number is, and changes the image steadily with ψ.
    """
    dim = latent_dim(interface, "generate")
    if request.latents is not None:
        vectors = codes(request.latents, dim)
        return [generator_feeds(interface, vectors, request.labels, range(len(vectors)))]
    numbers = range(request.first, request.first + request.n)
    vectors = latents(request.seed, numbers, dim)
    if request.truncation < 1:
        vectors *= np.float32(request.truncation)
    return [generator_feeds(interface, vectors, request.labels, numbers)]


def render(interface: Interface, outputs: Outputs, request: GenerateRequest) -> Pictures:
    """Return the images, whose files are called `<seed>_<number>`, or `latent_<row>`."""
    images = outputs[0][IMAGE]
    rows = range(len(images))
    if request.latents is not None:
        return Pictures(images, [f"latent_{row:06d}" for row in rows], {"latents": len(images)})
    facts: dict[str, Fact] = {"seed": request.seed, "first": request.first, "n": request.n}
    if request.truncation < 1:
        facts["truncation"] = request.truncation
    return Pictures(images, [f"{request.seed}_{request.first + row:06d}" for row in rows], facts)


VERBS.register("generate", Verb(GenerateRequest, plan, render))
