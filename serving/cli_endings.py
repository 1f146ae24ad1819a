"""The endings of the files that commands write, and the formats of answers that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PICTURES: Mapping[str, dict[str, str]] = {
    ".png": {"format": "png"},
    ".jpg": {"format": "jpeg"},
    ".jpeg": {"format": "jpeg"},
    ".webp": {"format": "webp"},
    ".npy": {"format": "npy"},
    ".zip": {"layout": "zip"},
}
"""The keys of a request for each ending of a file's name."""
ANIMATED = {**PICTURES, ".gif": {"format": "gif"}}
MEASURED = {**PICTURES, ".json": {"format": "json"}}


def keys_of_ending(path: Path, formats: Mapping[str, dict[str, str]] = PICTURES) -> dict[str, str]:
    """Return the keys of a request that make its answer a file of the ending of `path`.

    Raises:
        OutputError: the ending of the name is not in `formats`.
    """
    from serving.errors import OutputError

    if path.suffix.lower() not in formats:
        raise OutputError(f"{path} cannot be written: give a name that ends in {', '.join(formats)}")
    return formats[path.suffix.lower()]


def check_ending(path: Path, media_type: str) -> None:
    """Check that the name of a file does not promise another media type than that of its content.

    Endings of no media type that a verb answers with are not checked.

    Raises:
        OutputError: the ending is that of another media type.
    """
    from serving.answers import FORMATS
    from serving.codec import ZIP
    from serving.errors import OutputError

    names = {ending: keys.get("format", "zip") for ending, keys in (ANIMATED | MEASURED).items()}
    types = {ending: FORMATS.get(name, ZIP) for ending, name in names.items()}
    if types.get(path.suffix.lower(), media_type) != media_type:
        endings = " or ".join(ending for ending, known in types.items() if known == media_type)
        raise OutputError(
            f"{path} is not written, since the answer is {media_type}: give a name that ends in {endings}, or another "
            "format=…"
        )
