"""The verb `arithmetic`: the image of a weighted sum of latents, such as a - b + c."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from export.feeds import Feeds
from export.interface import IMAGE, Interface
from serving.answers import Fact, Pictures
from serving.errors import BadRequestError
from serving.feeds import codes, generator_feeds, latent_dim, latents
from serving.verb import OR_SINGLE, VERBS, Class, Code, Number, Outputs, PictureRequest, Seed, Verb

Term = Annotated[list[Number], Field(min_length=1, max_length=64, fail_fast=True), OR_SINGLE]
"""The numbers of the images whose latents are averaged."""
Weight = Annotated[float, Field(ge=-1000, le=1000)]
_MOST_TERMS = 64
_TERMS = Field(min_length=1, max_length=_MOST_TERMS, fail_fast=True)


class ArithmeticRequest(PictureRequest):
    """Make the image of a weighted sum of latents: of a - b + c, or of `numbers` or `latents` with their `weights`.

    a, b and c are each the mean of the latents of one or more images of `seed`. Without `weights` three numbers or
    latents are added as a - b + c. The answer is a strip of the images of all terms and of the sum, or with
    `only_result` that of the sum. For a conditional generator all images are of the class `label`, a name or an index;
    without it they are of the class of the first image.
    """

    a: Term | None = None
    b: Term | None = None
    c: Term | None = None
    numbers: Annotated[list[Number], _TERMS, OR_SINGLE] | None = None
    latents: Annotated[list[Code], _TERMS] | None = None
    weights: Annotated[list[Weight], Field(max_length=_MOST_TERMS, fail_fast=True), OR_SINGLE] | None = None
    seed: Seed = 0
    label: Class | None = None
    only_result: bool = False
    format: Literal["png", "jpeg", "webp", "npy"] = "png"

    @property
    def terms(self) -> list[tuple[float, list[int]]]:
        """The weight of each term, and the numbers, or the places in `latents`, whose mean it is."""
        if self.latents is None and self.numbers is None:
            return [(1.0, self.a or []), (-1.0, self.b or []), (1.0, self.c or [])]
        places = self.numbers if self.latents is None else range(len(self.latents))
        return [(weight, [place]) for weight, place in zip(self.weights or (1.0, -1.0, 1.0), places or (), strict=True)]

    @property
    def count(self) -> int:
        """The number of images of the answer."""
        return 1 if self.only_result else len(self.terms) + 1

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        listed = [key for key in ("numbers", "latents") if getattr(self, key) is not None]
        if not listed:
            missing = [key for key in ("a", "b", "c") if getattr(self, key) is None]
            if missing:
                raise PydanticCustomError("missing", "{key} is missing: give a, b and c", {"key": missing[0]})
            excluded = ["weights"]
        else:
            excluded = ["a", "b", "c", *listed[1:], *(["seed"] if listed == ["latents"] else [])]
            number = len(self.numbers or self.latents or ())
            if number != len(self.weights or (1, -1, 1)):
                message = "there are {number} {key}: give as many weights"
                raise PydanticCustomError("weights", message, {"number": number, "key": listed[0]})
        for key in excluded:
            if key in self.model_fields_set:
                chosen = listed[0] if listed else "a, b and c"
                message = "{chosen} say what to add: leave {key} out"
                raise PydanticCustomError("two_ways", message, {"chosen": chosen, "key": key})
        return self


def combine(weights: Mapping[int, float], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of the latents `vectors` [n, dim] with the n `weights`, with the norm of a latent: float32 [dim].

    The latents z_k are independent and standard normal, so that the components of Σ w_k z_k have the variance Σ w_k².
    Division by √(Σ w_k²) makes the sum standard normal again, with a norm near √dim as the generator was trained on
    (Agustsson et al., "Optimal transport maps for distribution matching operations on latent spaces", ICLR 2019).

    Raises:
        BadRequestError: all weights are zero.
    """
    factors = np.array(list(weights.values()), dtype=np.float64)
    largest = np.abs(factors).max()
    if not largest > 0:
        raise BadRequestError("the weights cancel, and nothing is left: change one of them")
    factors /= largest  # the squares of weights near 1e-300 would all be 0
    unit = factors / np.linalg.norm(factors)
    code: NDArray[np.float32] = (unit @ vectors.astype(np.float64)).astype(np.float32)
    return code


def plan(interface: Interface, request: ArithmeticRequest) -> list[Feeds]:
    """Return the latent of the sum, and those of its terms before it unless the request is for the result alone."""
    dim = latent_dim(interface, "do arithmetic")
    given = None if request.latents is None else codes(request.latents, dim)
    terms = request.terms
    means = [] if request.only_result else [_weights([(1.0, places)]) for _, places in terms]
    sums = []
    for weights in (*means, _weights(terms)):
        vectors = latents(request.seed, weights, dim) if given is None else given[list(weights)]
        sums.append(combine(weights, vectors))
    return [generator_feeds(interface, np.stack(sums), request.label, terms[0][1][:1] * len(sums))]


def render(interface: Interface, outputs: Outputs, request: ArithmeticRequest) -> Pictures:
    """Return the images from left to right."""
    images = outputs[0][IMAGE]
    terms = [f"term_{number}" for number in range(len(images) - 1)]
    facts: dict[str, Fact] = {"weights": [weight for weight, _ in request.terms]}
    if request.latents is None:
        facts = {"seed": request.seed, "terms": _terms_text(request.terms)}
    return Pictures(images, [*terms, "result"], facts, columns=len(images))


def _weights(terms: Sequence[tuple[float, list[int]]]) -> dict[int, float]:
    """Return the weight of each latent in the sum of (sign, places): one that two terms share is counted once."""
    weights: dict[int, float] = defaultdict(float)
    for sign, places in terms:
        for place in places:
            weights[place] += sign / len(places)
    return weights


def _terms_text(terms: Sequence[tuple[float, list[int]]]) -> str:
    """Return a sum as text, such as "+1 mean(7, 10) -1 mean(4) +1 mean(16)"."""
    return " ".join(f"{weight:+g} mean({', '.join(map(str, places))})" for weight, places in terms)


VERBS.register("arithmetic", Verb(ArithmeticRequest, plan, render))
