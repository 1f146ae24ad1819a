"""Defines the base class of all errors that a user can cause, and helpers for their messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import PurePath


class ZorseError(Exception):
    """An error that a user can cause; its text is one line that says what is wrong, where, and what to do."""

    exit_code = 1
    """The exit code of the command line."""


class StorageError(ZorseError):
    """A path or URI cannot be opened."""


class FetchError(RuntimeError):
    """An object store failed. The file itself may be sound and a retry may help, so the workers are restarted."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the name of `known` nearest to `name`, or "" if none is near.

    A name of more than 200 characters, which takes long to compare, has no near one.
    """
    if len(name) > 200:
        return ""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def shortened(text: str, most: int = 80) -> str:
    """Return `text`, or its first `most` characters and "…" if it has more."""
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line, or the name of its type if the message is empty."""
    # Pillow puts the address of a buffer in memory into its messages, which does not help a user.
    return " ".join(str(error).split("<_io")[0].split()) or type(error).__name__


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of a library's error message on one line, or the name of its type."""
    paragraph = str(error).strip().partition("\n\n")[0]
    return re.split(r"(?<=[.!?]) ", " ".join(paragraph.split()))[0] or type(error).__name__


def printable(name: str | PurePath) -> str:
    """Return a file name as one line that any file and terminal can hold.

    Bytes that are not UTF-8 become `\\xNN`, and control characters their escapes such as `\\n`.
    """
    return "".join(character if character.isprintable() else _escaped(character) for character in str(name))


def _escaped(character: str) -> str:
    # os.fsdecode makes U+DC80 … U+DCFF of bytes that are not UTF-8.
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
