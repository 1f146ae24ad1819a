"""The verb `translate`: an image of one domain becomes an image of the other."""

from __future__ import annotations

from typing import Literal

from export.interface import IMAGE, Interface
from serving import codec
from serving.batching import Tensors
from serving.codec import File
from serving.feeds import Feeds, source_feeds
from serving.verb import VERBS, ImageRequest, Verb


class TranslateRequest(ImageRequest):
    """Translate an image file, the raw body or the form's field `image`.

    The answer has the image's size, or that times the model's scale. `black` and `white` are the values of these in a
    file of more than 8 bits.
    """

    format: Literal["png", "jpeg"] = "png"


def plan(interface: Interface, request: TranslateRequest) -> Feeds:
    """Return the image as a batch of one."""
    return source_feeds(interface, request.image[None])


def render(outputs: Tensors, request: TranslateRequest) -> File:
    """Encode the translated image."""
    return codec.image_file(outputs[IMAGE][0], request.format)


VERBS.register("translate", Verb(TranslateRequest, plan, render))
