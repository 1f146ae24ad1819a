"""The verb `interpolate`: the images on the way from one latent to another."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from export.interface import IMAGE, Interface
from serving import codec
from serving.batching import Tensors
from serving.codec import File
from serving.feeds import Feeds, generator_feeds, latent_dim, latents
from serving.verb import OR_SINGLE, VERBS, Number, Seed, Verb, VerbRequest
from zorse_common.image_writer import MEDIA_TYPES

_PARALLEL = 1e-6
"""Below this sine two latents count as parallel, and the way between them is straight."""


class InterpolateRequest(VerbRequest):
    """Interpolate between the latents of the images `first` and `last` of `seed`, or along those of `numbers`.

    From each image to the next there are `steps` images, both ends included. The answer is a strip of them from left to
    right, or an animation. For a conditional generator all images are of the class `label`, a name or an index; without
    it they are of the first image's class.
    """

    seed: Seed = 0
    first: Number = 0
    last: Number = 1
    numbers: Annotated[list[Number], Field(min_length=2), OR_SINGLE] | None = None
    steps: int = Field(default=8, ge=2)
    label: str | int | None = None
    format: Literal["png", "jpeg", "gif"] = "png"

    @property
    def stops(self) -> list[int]:
        """The numbers of the images that the way passes."""
        return self.numbers or [self.first, self.last]

    @property
    def count(self) -> int:
        """The number of images of the strip: neighbouring parts of the way share an image."""
        return (len(self.stops) - 1) * (self.steps - 1) + 1


def slerp(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Interpolate spherically between the vectors `start` and `end` [dim]: float32 [steps, dim], both ends included.

    The vector at t in 0..1 is (sin((1 - t) Ω) start + sin(t Ω) end) / sin(Ω), where Ω is the angle between the two
    (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985). Its norm stays that of the ends where both
    have the same. On the straight line between two independent normal latents the norm falls to 1/√2 in the middle,
    where a generator was hardly trained (White, "Sampling generative networks", 2016). The line is the limit of the
    formula for parallel vectors, and is taken for those.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), np.finfo(np.float64).tiny)
    angle = np.arccos(np.clip(cosine, -1, 1))
    t = np.linspace(0, 1, steps)[:, None]
    if np.sin(angle) < _PARALLEL:
        vectors = (1 - t) * a + t * b
    else:
        vectors = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return vectors.astype(np.float32)


def plan(interface: Interface, request: InterpolateRequest) -> Feeds:
    """Return the latents along the way."""
    dim = latent_dim(interface, "interpolate")
    stops = latents(request.seed, request.stops, dim)
    parts = [slerp(start, end, request.steps) for start, end in pairwise(stops)]
    way = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    return generator_feeds(interface, way, request.label, request.stops[:1] * len(way))


def render(outputs: Tensors, request: InterpolateRequest) -> File:
    """Encode the images as a strip, or as an animation."""
    images = outputs[IMAGE]
    if request.format == "gif":
        return codec.animation(images)
    return codec.image_file(codec.grid(images, columns=len(images)), request.format)


VERBS.register("interpolate", Verb(InterpolateRequest, plan, render, (*MEDIA_TYPES.values(), codec.GIF)))
