"""Bad requests of the verbs: images, forms, keys in JSON and in the query."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.serving.bad_request import GENERATE, LABELLED, TRANSLATE, BadRequest

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def image(file_format: str, picture: Image.Image = PHOTO) -> bytes:
    """Return a picture as a file."""
    stream = io.BytesIO()
    picture.save(stream, file_format)
    return stream.getvalue()


PNG, JPEG = image("PNG"), image("JPEG")
CMYK = image("JPEG", PHOTO.convert("CMYK"))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that states a size and has hardly any pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (ihdr, idat))
    return b"\x89PNG\r\n\x1a\n" + chunks


def photo(name: str, body: bytes, status: int, code: str, word: str, query: str = "") -> BadRequest:
    """Return a translation of a file."""
    return BadRequest(name, TRANSLATE + query, body, status, code, word)


def form(name: str, body: bytes, word: str, kind: str = "multipart/form-data; boundary=x") -> BadRequest:
    """Return a translation of a form."""
    return BadRequest(name, TRANSLATE, body, 400, "bad_request", word, headers={"content-type": kind})


def part(field_name: str, content: bytes, file_name: str | None = "a.png") -> bytes:
    """Return one part of a form."""
    named = f'; filename="{file_name}"' if file_name is not None else ""
    return f'--x\r\nContent-Disposition: form-data; name="{field_name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


def keys(name: str, word: str, body: object = None, query: str = "", path: str = GENERATE, **more: Any) -> BadRequest:
    """Return a verb's request with keys in JSON, or in the query."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return BadRequest(name, path + query, content, **{"status": 422, "code": "bad_request", "word": word, **more})


def _images() -> Iterator[BadRequest]:
    for name, body in (
        ("empty file", b""),
        ("text", b"no image"),
        ("half of a PNG", PNG[: len(PNG) // 2]),
        ("half of a JPEG", JPEG[: len(JPEG) // 2]),
        ("half of a CMYK JPEG", CMYK[: len(CMYK) // 2]),
        ("first bytes of a PNG before a JPEG", PNG[:8] + JPEG),
        ("PNG with a wrong checksum", PNG[:40] + b"\0\0\0\0" + PNG[44:]),
        ("PNG with hardly any pixels", png_header(300, 300)),
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("PDF", b"%PDF-1.4\n"),
        ("HTML", b"<!doctype html><title>Not found</title>"),
        ("zeros", bytes(1000)),
    ):
        yield photo(name, body, 415, "bad_image", "image")
    floats = image("TIFF", Image.fromarray(np.ones((20, 20), np.float32)))
    yield photo("TIFF of floating-point numbers", floats, 415, "bad_image", "white")
    yield photo("PNG that states 2.5 gigapixels", png_header(50_000, 50_000), 413, "too_large", "scale it down")
    yield photo("PNG of 2^31 pixels in width", png_header(2**31 - 1, 1), 413, "too_large", "scale it down")
    wide = image("PNG", Image.new("RGB", (400, 8)))
    yield photo("image wider than the model takes", wide, 422, "image_size", "320")
    deep = image("PNG", Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)))
    yield photo("16 bits and black alone", deep, 422, "bad_request", "black and white together", "?black=0")
    yield photo("16 bits and black = white", deep, 422, "bad_request", "white", "?black=5&white=5")
    yield photo("16 bits and white = nan", deep, 422, "bad_request", "white", "?black=0&white=nan")
    yield BadRequest("image for a generator", "/v2/models/digits/translate", PNG, 400, "unsupported", "generator")


def _forms() -> Iterator[BadRequest]:
    end = b"--x--\r\n"
    yield form("form without a boundary", part("image", PNG) + end, "boundary", "multipart/form-data")
    yield form("form that is none", b"nonsense", "cannot be read")
    yield form("empty form", b"", "before its last boundary")
    yield form("form without its end", part("image", PNG), "before its last boundary")
    yield form("form with 1,001 fields", part("image", PNG) * 1001 + end, "more than 1000 fields")
    yield form("form with a boundary of 100 letters", b"", "70 letters", "multipart/form-data; boundary=" + "x" * 100)
    yield form("field without a name", b"--x\r\nContent-Type: image/png\r\n\r\n" + PNG + b"\r\n" + end, "no name")
    yield form("form with another field", part("photo", PNG) + end, "image")
    text = part("image", b"a", None) + end
    form_type = {"Content-Type": "multipart/form-data; boundary=x"}
    yield BadRequest("form with text for the image", TRANSLATE, text, 415, "bad_image", "image", headers=form_type)
    yield form("form with no field", end, "no image")


def _encoded_images() -> Iterator[BadRequest]:
    def encoded(name: str, word: str, body: object, status: int = 422, code: str = "bad_request") -> BadRequest:
        headers = {"Content-Type": "application/json"}
        return BadRequest(name, TRANSLATE, json.dumps(body).encode(), status, code, word, headers=headers)

    picture = base64.b64encode(PNG).decode()
    yield encoded("JSON without an image", "no image", {}, 400)
    yield encoded("JSON with an empty list of images", "no image", {"images": []}, 400)
    yield encoded("JSON with a number for the image", "base64", {"image": 7})
    yield encoded("JSON with letters that are no base64", "not base64", {"image": "***"})
    yield encoded("JSON with letters that are not ASCII", "not base64", {"image": "ä"})
    yield encoded("JSON with a list for its keys", "an object of keys", [picture], 400)
    yield encoded("JSON with 20,000 lists for images", "more than 10000", {"images": [[]] * 20_000}, 413, "too_large")
    yield encoded("JSON with an unknown key", "did you mean overlap", {"image": picture, "overlab": 1})
    yield encoded("JSON with an empty image", "empty", {"image": ""}, 415, "bad_image")
    yield encoded("257 files in JSON", "257 images", {"images": [picture] * 257}, 413, "too_large")
    yield encoded("overlap of more than half a tile", "half a tile", {"image": picture, "overlap": 161}, 400)
    yield encoded("overlap = -1", "greater than or equal to 0", {"image": picture, "overlap": -1})
    two = {"images": [picture, picture], "layout": "single"}
    yield encoded("two images in one PNG", "grid or zip", two, 400)


def _latents() -> Iterator[BadRequest]:
    code = [0.0] * 6
    for name, body, word in (
        ("latents beside a seed", {"latents": [code], "seed": 1}, "leave seed out"),
        ("an empty list of latents", {"latents": []}, "at least 1 item"),
        ("an empty latent", {"latents": [[]]}, "at least 1 item"),
        ("truncation = 0", {"truncation": 0}, "greater than 0"),
        ("truncation = 2", {"truncation": 2}, "less than or equal to 1"),
        ("latent of text", {"latents": ["a"]}, "list"),
    ):
        yield keys(name, word, body)
    yield keys("latent with NaN", "finite number", b'{"latents": [[NaN, 0, 0, 0, 0, 0]]}')
    yield keys("latent of 5 numbers", "5 numbers and the model takes 6", {"latents": [code[:5]]}, status=400)
    yield keys("latent of 1e300", "too large", {"latents": [[1e300] * 6]}, status=400)
    yield keys("true for a number", "n: give a number and not true or false", {"n": True})
    yield keys("false in a latent", "latents: give a number and not true or false", {"latents": [[0.0] * 5 + [False]]})
    yield keys("true for a class", "not true or false", {"labels": True}, path=f"{LABELLED}/generate")
    yield keys("false in a list of classes", "not true or false", {"labels": [False]}, path=f"{LABELLED}/generate")
    interpolate, arithmetic = "/v2/models/digits/interpolate", "/v2/models/digits/arithmetic"
    yield keys("numbers beside first", "leave first out", {"numbers": [1, 2], "first": 1}, path=interpolate)
    yield keys(
        "latents beside numbers", "leave numbers out", {"latents": [code] * 2, "numbers": [1, 2]}, path=interpolate
    )
    yield keys("unknown method", "slerp", {"method": "squad"}, path=interpolate)
    yield keys("a without b", "b is missing", {"a": 1}, path=arithmetic)
    yield keys("a beside numbers", "leave a out", {"a": 1, "numbers": [1, 2, 3]}, path=arithmetic)
    yield keys("weights beside a, b, c", "leave weights out", {"a": 1, "b": 2, "c": 3, "weights": [1]}, path=arithmetic)
    yield keys("two numbers without weights", "as many weights", {"numbers": [1, 2]}, path=arithmetic)
    cancelled = {"numbers": [7, 7], "weights": [1, -1]}
    yield keys("weights that cancel", "the weights cancel", cancelled, path=arithmetic, status=400)
    yield keys("gif in a ZIP", "frames", {"format": "gif", "layout": "zip"}, path=interpolate, status=400)
    accept = {"Accept": "text/html, audio/*"}
    yield BadRequest("Accept of text", GENERATE, b"", 406, "not_acceptable", "image/webp", headers=accept)


def _cycles() -> Iterator[BadRequest]:
    path = "/v2/models/invert/cycle"
    yield BadRequest("cycle without a partner", path, PNG, 400, "bad_request", "partner")
    yield BadRequest("cycle with an unknown partner", f"{path}?partner=zebra", PNG, 404, "not_found", "zebra")
    yield BadRequest("cycle of a generator", "/v2/models/digits/cycle", PNG, 400, "unsupported", "generator")


def _verbs() -> Iterator[BadRequest]:
    for name, body, word in (
        ("verb with half of JSON", b"{", "not JSON"),
        ("verb with a list", b"[1]", "an object of keys"),
        ("verb with a number", b"1", "an object of keys"),
        ("verb with 100,000 brackets", b"[" * 100_000, "recursion limit"),
        ("verb with 5,000 digits", b'{"seed": ' + b"9" * 5000 + b"}", "number out of range"),
        ("verb with half a pair of surrogates", b'{"\\ud800": 1}', "not JSON"),
        ("verb with bytes that are not UTF-8", b'{"\xff": 1}', "not JSON"),
    ):
        yield keys(name, word, body, status=400)
    yield keys("verb with 2 MiB of JSON", "1048576", b" " * 2**21 + b"{}", status=413, code="too_large")
    yield keys("verb with 300,000 lists", "lists and objects", b"[" + b"[]," * 300_000, status=413, code="too_large")
    for name, body, word in (
        ("verb with an unknown key", {"sede": 7}, "did you mean seed"),
        ("verb with a key of 1 MB", {"a" * 10**6: 1}, "aaa… (known:"),
        ("verb with 70,000 unknown keys", {f"a{number}": 1 for number in range(70_000)}, "unknown key a0 "),
        ("latents of 200,000 texts", {"latents": ["x"] * 200_000}, "latents.0: Input should be a valid list"),
        ("latent of 200,000 texts", {"latents": [["x"] * 200_000]}, "latents.0.0: Input should be a valid number"),
        ("200,000 numbers that are texts", {"numbers": ["x"] * 200_000}, "numbers"),
        ("n = 0", {"n": 0}, "greater than or equal to 1"),
        ("n = 1.5", {"n": 1.5}, "n"),
        ("n = text", {"n": "many"}, "n"),
        ("seed = -1", {"seed": -1}, "greater than or equal to 0"),
        ("seed = 2^63", {"seed": 2**63}, "less than"),
        ("first = 2^62", {"first": 2**62}, "less than"),
        ("format = tiff", {"format": "tiff"}, "png"),
    ):
        yield keys(name, word, body)
    for name, query, word in (
        ("query with an unknown key", "?sede=7", "did you mean seed"),
        ("query with a key twice", "?seed=1&seed=2", "seed"),
        ("query with text for a number", "?n=many", "n"),
        ("query with an empty value", "?n=", "n"),
        ("query with bytes that are no UTF-8", "?n=%ff", "n"),
        ("query with a NUL", "?n=%00", "n"),
    ):
        yield keys(name, word, query=query)
    yield keys("query beside a body", "leave one of them out", {"n": 2}, "?seed=7", status=400)
    yield keys("2,000 keys", "keys", query="?" + "a=1&" * 2000, status=400)
    yield keys("257 images", "257 images", {"n": 257}, status=413, code="too_large")
    yield keys("10^100 images", "images", query="?n=1" + "0" * 100, status=413, code="too_large")
    yield keys("10^9 images", "images", {"n": 10**9}, status=413, code="too_large")
    generate = f"{LABELLED}/generate"
    yield keys("unknown class", "cat, dog, owl", {"labels": "kat"}, path=generate, status=400)
    yield keys("class of 1 MB", "aaa…'", {"labels": "cat dog" * 10 + "a" * 10**6}, path=generate, status=400)
    yield keys("class 3 of 3", "0 to 2", {"labels": 3}, path=generate, status=400)
    yield keys("class of 5,000 digits", "0 to 2", {"labels": "9" * 5000}, path=generate, status=400)
    yield keys("labels without classes", "no classes", {"labels": 1}, status=400, code="unsupported")
    yield keys(
        "generate of a translator", "translator", path="/v2/models/invert/generate", status=400, code="unsupported"
    )


BAD_VERBS = tuple(
    request for group in (_images, _forms, _encoded_images, _verbs, _latents, _cycles) for request in group()
)
