"""The verb `cycle`: images are translated and translated back, and what is lost is measured."""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, SOURCE, Interface
from serving.answers import Fact, Pictures
from serving.codec import JSON, File
from serving.errors import UnsupportedError
from serving.feeds import source_feeds
from serving.verb import VERBS, Outputs, PartnerRequest, Verb


class CycleRequest(PartnerRequest):
    """Translate image files with this model, and back with the model `partner`; measure the error.

    The answer is a row source, there, back for each image, and with the format json the error alone. The headers have
    it too: `Zorse-L1`, the mean absolute difference in grey levels, and `Zorse-PSNR` in dB. Without `partner` it is the
    model of the same repository that translates back.
    """

    format: Literal["png", "jpeg", "webp", "npy", "json"] = "png"


def plan(interface: Interface, request: CycleRequest) -> list[Feeds]:
    """Return each image as a batch of one."""
    if interface.scale > 1:
        raise UnsupportedError(f"the model makes images {interface.scale} times as large, which do not cycle")
    return [source_feeds(interface, image[None]) for image in request.images]


def plan_partner(outputs: Outputs, request: CycleRequest) -> list[Feeds]:
    """Return each translated image as a batch of one."""
    return [{SOURCE: output[IMAGE]} for output in outputs]


def render(interface: Interface, outputs: Outputs, request: CycleRequest) -> Pictures | File:
    """Return the images of each cycle, or its error."""
    half = len(request.images)
    images: list[NDArray[np.uint8]] = []
    errors = []
    for source, there, back in zip(request.images, outputs[:half], outputs[half:], strict=True):
        images += [source, there[IMAGE][0], back[IMAGE][0]]
        errors.append(error_of(source, images[-1]))
    facts: dict[str, Fact] = {"l1": [round(l1, 3) for l1, _ in errors], "psnr": [_decibels(psnr) for _, psnr in errors]}
    if request.format == "json":
        entries = [{"l1": l1, "psnr": _decibels(psnr)} for l1, psnr in errors]
        return File(json.dumps({"errors": entries}).encode(), JSON, facts)
    names = [f"{number:06d}_{part}" for number in range(half) for part in ("source", "there", "back")]
    return Pictures(images, names, facts, columns=3)


def error_of(source: NDArray[np.uint8], back: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the mean absolute difference in grey levels, and the PSNR in dB (infinite if there is no difference).

    Raises:
        UnsupportedError: the two images have different shapes.
    """
    if source.shape != back.shape:
        shapes = " and ".join("×".join(map(str, shape)) for shape in (source.shape, back.shape))
        raise UnsupportedError(f"the image before and after the cycle, {shapes}, cannot be compared: use two translate")
    difference = source.astype(np.float32) - back
    square = float(np.mean(difference * difference))
    psnr = 10 * math.log10(255**2 / square) if square else math.inf
    return float(np.mean(np.abs(difference))), psnr


def _decibels(psnr: float) -> float | str:
    """Return a PSNR as JSON can hold it."""
    return round(psnr, 2) if math.isfinite(psnr) else "inf"


VERBS.register("cycle", Verb(CycleRequest, plan, render, plan_partner))
