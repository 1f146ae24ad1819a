"""Answers of verbs: images become files of the format and layout of the request, with the facts of their origin.

The facts are the model's name, version and digest, and what the verb adds, such as the seed. They are in the headers of
the answer (`Zorse-Model`, `Zorse-Seed`, …) and, as a JSON object, in the comment of every file: the text `Comment` of a
PNG, the EXIF tag UserComment of a JPEG or WebP, and the comment of a ZIP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from export.manifest import Manifest, fields_digest
from serving import codec
from serving.codec import GIF, JSON, NPY, ZIP, File
from serving.errors import BadRequestError, NotAcceptableError
from serving.negotiation import weights
from zorse_common import image_writer

Layout = Literal["grid", "zip", "single"]
"""How several images are put into an answer; see `pack`."""
FORMATS: dict[str, str] = {"npy": NPY, "gif": GIF, "json": JSON} | dict(image_writer.MEDIA_TYPES.items())
"""The media type of each format."""
Fact = str | int | float | list[int] | list[float] | list[float | str]
Images = Sequence[NDArray[Any]] | NDArray[Any]
"""Images [h, w, c] of any sizes, or one array [n, h, w, c]."""


@dataclass(frozen=True)
class Pictures:
    """The images of an answer before they are encoded, each [h, w, c].

    `names` are the names of their files in a ZIP, without an ending. `facts` say how the images were made. Several
    images are a grid of `columns` by default, or a ZIP if `layout` is "zip" or they have different sizes.
    """

    images: Images
    names: Sequence[str]
    facts: dict[str, Fact] = field(default_factory=dict)
    columns: int | None = None
    layout: Literal["grid", "zip"] = "grid"


@dataclass(frozen=True)
class Origin:
    """The model that made an answer: `digest` is that of its manifest."""

    model: str
    version: int
    digest: str

    @classmethod
    def of(cls, manifest: Manifest) -> Origin:
        """Return the origin of the answers of the model of `manifest`."""
        return cls(manifest.name, manifest.version, fields_digest(dataclasses.asdict(manifest)))

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """The facts of the model."""
        return {"model": self.model, "version": self.version, "digest": self.digest}

    @cached_property
    def headers(self) -> dict[str, str]:
        """The facts as headers."""
        return _headers(self.facts)


def finish(answer: Pictures | File, origin: Origin, file_format: str = "png", layout: Layout | None = None) -> File:
    """Return `answer` as a file with the facts of `origin` and its own. The arguments are those of `pack`."""
    headers = origin.headers | _headers(answer.facts)
    if isinstance(answer, File):
        return File(answer.content, answer.media_type, answer.facts, headers)
    comment = to_json(origin.facts | answer.facts, ensure_ascii=True).decode()
    content, media_type = pack(answer, file_format, layout, comment)
    return File(content, media_type, answer.facts, headers)


def pack(pictures: Pictures, file_format: str, layout: Layout | None, comment: str) -> tuple[bytes, str]:
    """Return the images as one file, and its media type.

    "grid" joins the images to one, "zip" makes a file of each, and "single" makes one file of the format that holds
    them all: NPY holds them as one array [n, h, w, c], GIF as frames, and the other formats only one. Without `layout`
    NPY and GIF, and an answer of one image, are "single".

    Raises:
        BadRequestError: the layout does not fit the format or the images.
        UnsupportedError: the format has no such images.
    """
    images, layout = pictures.images, layout or _usual_layout(pictures, file_format)
    if file_format == "gif" and layout != "single":
        raise BadRequestError("a gif holds all images as its frames: leave the layout out")
    if layout == "zip":
        encoded = ((f"{name}.{file_format}", image) for name, image in zip(pictures.names, images, strict=True))
        return codec.archive([(name, codec.encode(image, file_format, comment)) for name, image in encoded], comment)
    media_type = FORMATS[file_format]
    if layout == "grid":
        return codec.encode(codec.grid(stack(images), pictures.columns), file_format, comment), media_type
    if file_format == "npy":
        return codec.npy(stack(images)), media_type
    if file_format == "gif":
        return codec.animation(stack(images), comment), media_type
    if len(images) != 1:
        raise BadRequestError(
            f"a {file_format} holds one image and there are {len(images)}: use the layout grid or zip"
        )
    return codec.encode(images[0], file_format, comment), media_type


def _usual_layout(pictures: Pictures, file_format: str) -> Layout:
    if file_format in ("npy", "gif") or len(pictures.images) == 1:
        return "single"
    return pictures.layout if _are_of_one_size(pictures.images) else "zip"


def stack(images: Images) -> NDArray[Any]:
    """Return the images as one array [n, h, w, c]. Beside images in colour, grey ones become RGB.

    Raises:
        BadRequestError: the images have different sizes.
    """
    if isinstance(images, np.ndarray):
        return images
    if len(images) == 1:
        return images[0][None]
    if not _are_of_one_size(images):
        raise BadRequestError("the images have different sizes, which do not fit into a grid or array: use layout=zip")
    channels = max(image.shape[2] for image in images)
    return np.stack([image.repeat(channels, axis=2) if image.shape[2] == 1 else image for image in images])


def _are_of_one_size(images: Images) -> bool:
    return isinstance(images, np.ndarray) or len({image.shape[:2] for image in images}) == 1


def negotiated(
    keys: dict[str, Any], accept: str, formats: tuple[str, ...], media_types: tuple[str, ...]
) -> dict[str, Any]:
    """Return the keys of a request, and the format or layout that its header Accept prefers.

    If the keys have a format, or the layout "zip", they decide, and the header is not read. `media_types` are those of
    the answers; a verb without `formats` has no keys for them.

    Raises:
        NotAcceptableError: the header allows none of the media types.
    """
    if keys.get("format") is not None or keys.get("layout") == "zip":
        return keys
    chosen = preferred(accept, media_types)
    if not formats:
        return keys
    if chosen == ZIP:
        return {**keys, "layout": "zip"}
    return {**keys, "format": next(name for name in formats if FORMATS[name] == chosen)}


@lru_cache(maxsize=256)
def preferred(accept: str, media_types: tuple[str, ...]) -> str:
    """Return the first of the media types that have the highest quality by the header Accept (RFC 9110, 12.5.1).

    Raises:
        NotAcceptableError: the header allows none.
    """
    ranges = weights(accept)
    qualities = [
        next((ranges[name] for name in (media, f"{media.partition('/')[0]}/*", "*/*") if name in ranges), 0.0)
        for media in media_types
    ]
    best = max(qualities)
    if best <= 0:
        raise NotAcceptableError(f"Accept is {accept[:80]!r} and the answer can be {', '.join(media_types)}")
    return media_types[qualities.index(best)]


def _headers(facts: Mapping[str, Fact]) -> dict[str, str]:
    return {
        f"zorse-{name}": ", ".join(map(str, fact)) if isinstance(fact, list | tuple) else str(fact)
        for name, fact in facts.items()
    }
