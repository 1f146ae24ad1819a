"""The verb `interpolate`: the images on the way from one latent to another."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from export.feeds import Feeds
from export.interface import IMAGE, Interface
from serving.answers import Fact, Pictures
from serving.feeds import codes, generator_feeds, latent_dim, latents
from serving.verb import OR_SINGLE, VERBS, Class, Code, Number, Outputs, PictureRequest, Seed, Verb

_PARALLEL = 1e-6
"""Below this sine two latents count as parallel, and the way between them is straight."""


class InterpolateRequest(PictureRequest):
    """Interpolate between the images `first` and `last` of `seed`, along its `numbers`, or along `latents`.

    From each image to the next there are `steps` images, both ends included. The answer is a strip of them from left to
    right, an animation or an array. For a conditional generator all images are of the class `label`, a name or an
    index; without it they are of the first image's class.
    """

    seed: Seed = 0
    first: Number = 0
    last: Number = 1
    numbers: Annotated[list[Number], Field(min_length=2, fail_fast=True), OR_SINGLE] | None = None
    latents: Annotated[list[Code], Field(min_length=2, fail_fast=True)] | None = None
    method: Literal["slerp", "lerp"] = "slerp"
    steps: int = Field(default=8, ge=2)
    label: Class | None = None
    format: Literal["png", "jpeg", "webp", "npy", "gif"] = "png"

    @property
    def stops(self) -> list[int]:
        """The numbers of the images that the way passes; those of latents are their places in the list."""
        if self.latents is not None:
            return list(range(len(self.latents)))
        return self.numbers or [self.first, self.last]

    @property
    def count(self) -> int:
        """The number of images of the strip: neighbouring parts of the way share an image."""
        return (len(self.stops) - 1) * (self.steps - 1) + 1

    @model_validator(mode="after")
    def _check_stops(self) -> Self:
        for chosen, excluded in (("latents", ("numbers", "seed", "first", "last")), ("numbers", ("first", "last"))):
            for key in excluded if getattr(self, chosen) is not None else ():
                if key in self.model_fields_set:
                    message = "{chosen} say where the way goes: leave {key} out"
                    raise PydanticCustomError("two_ways", message, {"chosen": chosen, "key": key})
        return self


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
    if np.sin(angle) < _PARALLEL:
        return lerp(start, end, steps)
    t = np.linspace(0, 1, steps)[:, None]
    vectors = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return vectors.astype(np.float32)


def lerp(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Interpolate linearly between the vectors `start` and `end` [dim]: float32 [steps, dim], both ends included."""
    t = np.linspace(0, 1, steps)[:, None]
    return ((1 - t) * start.astype(np.float64) + t * end.astype(np.float64)).astype(np.float32)


def plan(interface: Interface, request: InterpolateRequest) -> list[Feeds]:
    """Return the latents along the way."""
    dim = latent_dim(interface, "interpolate")
    stops = latents(request.seed, request.stops, dim) if request.latents is None else codes(request.latents, dim)
    between = slerp if request.method == "slerp" else lerp
    parts = [between(start, end, request.steps) for start, end in pairwise(stops)]
    way = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    return [generator_feeds(interface, way, request.label, request.stops[:1] * len(way))]


def render(interface: Interface, outputs: Outputs, request: InterpolateRequest) -> Pictures:
    """Return the images from left to right."""
    images = outputs[0][IMAGE]
    facts: dict[str, Fact] = {"latents": len(request.stops)}
    if request.latents is None:
        facts = {"seed": request.seed, "numbers": request.stops}
    facts |= {"steps": request.steps, "method": request.method}
    return Pictures(images, [f"step_{step:06d}" for step in range(len(images))], facts, columns=len(images))


VERBS.register("interpolate", Verb(InterpolateRequest, plan, render))
