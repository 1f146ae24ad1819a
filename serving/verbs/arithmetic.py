"""The verb `arithmetic`: the image of the latent a - b + c."""

from __future__ import annotations

from collections import defaultdict
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

Term = Annotated[list[Number], Field(min_length=1, max_length=64), OR_SINGLE]
"""The numbers of the images whose latents are averaged."""


class ArithmeticRequest(VerbRequest):
    """Make the image of the latent a - b + c, each term the mean of the latents of one or more images of `seed`.

    The answer is a strip of the images of a, b, c and the result, or the result alone. For a conditional generator all
    images are of the class `label`, a name or an index; without it they are of the class of the first image of a.
    """

    a: Term
    b: Term
    c: Term
    seed: Seed = 0
    label: str | int | None = None
    format: Literal["png", "jpeg"] = "png"
    layout: Literal["strip", "result"] = "strip"

    @property
    def count(self) -> int:
        """The number of images of the answer."""
        return 4 if self.layout == "strip" else 1


def combine(weights: dict[int, float], seed: int, dim: int) -> NDArray[np.float32]:
    """Return the sum of the latents of `seed`, weighted by number, with the norm of a latent: float32 [dim].

    The latents z_k are independent and standard normal, so that the components of Σ w_k z_k have the variance Σ w_k².
    Division by √(Σ w_k²) makes the sum standard normal again, with a norm near √dim as the generator was trained on
    (Agustsson et al., "Optimal transport maps for distribution matching operations on latent spaces", ICLR 2019).
    """
    factors = np.array(list(weights.values()), dtype=np.float64)
    total = factors @ latents(seed, weights, dim).astype(np.float64)
    code: NDArray[np.float32] = (total / np.sqrt(np.sum(factors**2))).astype(np.float32)
    return code


def plan(interface: Interface, request: ArithmeticRequest) -> Feeds:
    """Return the latent of the result, and those of a, b and c before it if the request is for a strip."""
    dim = latent_dim(interface, "do arithmetic")
    terms = [(1.0, request.a), (-1.0, request.b), (1.0, request.c)]
    sums = [_weights((1.0, numbers)) for _, numbers in terms] if request.layout == "strip" else []
    codes = np.stack([combine(weights, request.seed, dim) for weights in (*sums, _weights(*terms))])
    return generator_feeds(interface, codes, request.label, request.a[:1] * len(codes))


def render(outputs: Tensors, request: ArithmeticRequest) -> File:
    """Encode the images from left to right."""
    images = outputs[IMAGE]
    return codec.image_file(codec.grid(images, columns=len(images)), request.format)


def _weights(*terms: tuple[float, list[int]]) -> dict[int, float]:
    """Return the weight of each image in the sum of (sign, numbers): a number that two terms share is counted once."""
    weights: dict[int, float] = defaultdict(float)
    for sign, numbers in terms:
        for number in numbers:
            weights[number] += sign / len(numbers)
    return weights


VERBS.register("arithmetic", Verb(ArithmeticRequest, plan, render))
