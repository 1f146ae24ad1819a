"""Lists and reads the files below a folder or inside a zip, and the image files among them, for every stage."""

from __future__ import annotations

import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from PIL import Image as Pillow

from zorse_common.errors import FetchError, ZorseError, one_line, printable
from zorse_common.globs import find_glob
from zorse_common.image_formats import SNIFFED_BYTES, SUFFIXES, image_format
from zorse_common.image_writer import encode
from zorse_common.images import (
    MAX_PIXELS,
    ImageError,
    Pixels,
    check_range,
    decode_image,
    to_array,
)
from zorse_common.storage import Storage, Tree

T = TypeVar("T")
NAMED_FILES = 5
"""How many files a message names of a longer list."""
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""The errors of zipfile and of the storage for truncated, encrypted and unsupported files."""


class FilesError(ZorseError):
    """A folder or zip is missing or damaged, or has too few usable files."""


class FileSet:
    """The files below a folder or inside a zip, on a local disk or at any URI; with a `Glob`, those that match it.

    A file's name is its path from there, or from the pattern's folder, with `/`. `sizes` maps each name to the file's
    bytes, sorted by name. `skipped` maps the name of each file or link that was left out to the reason.
    """

    def __init__(self, root: str) -> None:
        """List the files.

        Raises:
            FilesError: `root` is missing or damaged, is a file but not a zip, or is a pattern that no file matches.
        """
        self.root = root
        self._local = threading.local()
        self._members: dict[str, str] = {}
        try:
            glob = find_glob(root)
            self._storage = Storage(glob.folder if glob else root)
            tree = self._list(glob.depth if glob else None)
        except UNREADABLE as error:
            raise FilesError(f"{root} cannot be opened ({one_line(error)})") from error
        if glob is not None:
            tree.sizes = {name: size for name, size in tree.sizes.items() if glob.matches(name)}
            if not tree.sizes:
                raise FilesError(f"{root} matches no file: give a path, a URI or another pattern")
        self.sizes = dict(sorted(tree.sizes.items()))
        self.skipped = tree.skipped

    @property
    def kind(self) -> str:
        """What the files are in: "zip" or "folder"."""
        return "zip" if self._members else "folder"

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the content of a file, or its first `most` bytes.

        Raises:
            FetchError: an object store failed.
            OSError, zipfile.BadZipFile, … (`UNREADABLE`): the file is truncated, encrypted or gone.
        """
        try:
            if not self._members:
                return self._storage.read(name, most)
            with self._archive().open(self._members[name]) as member:
                return member.read(-1 if most is None else most)
        except OSError as error:
            if self._storage.local is None:
                raise FetchError(f"{self.root}: {printable(name)} cannot be fetched ({one_line(error)})") from error
            raise

    def _list(self, depth: int | None) -> Tree:
        """List all files; in a folder only those whose paths have at most `depth` parts."""
        kind = self._storage.kind()
        if kind == "folder":
            return self._storage.tree(depth)
        if kind == "nothing":
            raise FilesError(f"{self.root} does not exist: give the path or URI of a folder or zip")
        with self._storage.open_file() as file:
            if file.read(2) != b"PK":
                raise FilesError(f"{self.root} is neither a folder nor a zip file")
            with zipfile.ZipFile(file) as archive:
                members = [info for info in archive.infolist() if not info.is_dir()]
        # Some Windows programs write `\` into the names; the zip format prescribes `/`.
        self._members = {info.filename.replace("\\", "/"): info.filename for info in members}
        return Tree({info.filename.replace("\\", "/"): info.file_size for info in members})

    def _archive(self) -> zipfile.ZipFile:
        # One handle per thread: threads that share one wait for each other and, on object stores, for the network.
        if not hasattr(self._local, "archive"):
            self._local.archive = zipfile.ZipFile(self._storage.local or self._storage.open_file())
        archive: zipfile.ZipFile = self._local.archive
        return archive


class Files(Protocol):
    """Files by name, with the attributes of a `FileSet`."""

    sizes: dict[str, int]
    skipped: dict[str, str]

    @property
    def kind(self) -> str:
        """What the files are in."""

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the content of a file, or its first `most` bytes. Raises as `FileSet.read`."""


class ImageFiles:
    """The image files of a `FileSet`, or of other `Files`.

    A file with one of the usual suffixes counts as an image. Other files are recognised by their first bytes: on a
    local disk each file, on an object store one file for all with the same suffix. Hidden files are left out.
    """

    def __init__(
        self,
        root: str,
        *,
        value_range: tuple[float, float] | None = None,
        max_pixels: int = MAX_PIXELS,
        files: Files | None = None,
    ) -> None:
        """List the files at `root`, or take `files`. `value_range` and `max_pixels` are those of `decode_image`.

        Raises:
            FilesError: as `FileSet`, or the numbers of `value_range` are equal or not finite.
        """
        try:
            check_range(value_range)
        except ValueError as error:
            raise FilesError(f"{root}: {error}") from error
        self.root = root
        self.unreadable: dict[str, str] = {}
        """The reason for each file that could not be decoded, by name, in the order of the attempts."""
        self.value_range, self._max_pixels = value_range, max_pixels
        self._files: Files = FileSet(root) if files is None else files
        self.left_out = self._files.skipped.copy()
        """The reason for each file that does not count as an image, by name."""
        self._sniffed: dict[str, bool] = {}
        self.sizes = {name: size for name, size in self._files.sizes.items() if self._counts_as_image(name)}
        """The size of each image file in bytes, by name, sorted by name."""

    @property
    def kind(self) -> str:
        """What the files are in."""
        return self._files.kind

    @property
    def names(self) -> list[str]:
        """The names of the image files, sorted."""
        return list(self.sizes)

    @property
    def skipped(self) -> list[str]:
        """One line for each file that could not be decoded, in the order of the attempts."""
        # The copy is atomic, while decoder threads may add files.
        return [f"skipped {printable(name)}: {reason}" for name, reason in self.unreadable.copy().items()]

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return the bytes of an image file, or its first `most` bytes. Raises as `FileSet.read`."""
        return self._files.read(name, most)

    def open(self, name: str, channels: int | None = None, *, least_side: int | None = None) -> Pillow.Image | None:
        """Decode one image as `decode_image` does. Returns None if it cannot be read; `unreadable` then says why.

        Raises:
            FetchError: an object store failed.
        """
        if name in self.unreadable:
            return None
        try:
            return decode_image(
                self.read(name),
                channels,
                value_range=self.value_range,
                max_pixels=self._max_pixels,
                least_side=least_side,
            )
        except FetchError:
            raise
        except (ImageError, *UNREADABLE) as error:
            self.unreadable[name] = one_line(error)
            return None

    def pixels(self, name: str) -> Pixels:
        """Return one image: uint8 [h, w, 1] of a grey file, [h, w, 3] of others.

        Raises:
            FilesError: it cannot be decoded; the message names it.
            FetchError: an object store failed.
        """
        image = self.open(name)
        if image is None:
            raise FilesError(f"{self.root}: {printable(name)} cannot be read ({self.unreadable[name]})")
        return to_array(image)

    def _counts_as_image(self, name: str) -> bool:
        if is_hidden(name):
            self.left_out[name] = "hidden"
            return False
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES:
            return True
        key = suffix if "://" in self.root else name
        if key not in self._sniffed:
            self._sniffed[key] = self._starts_like_an_image(name)
        if not self._sniffed[key]:
            self.left_out[name] = "no image"
        return self._sniffed[key]

    def _starts_like_an_image(self, name: str) -> bool:
        try:
            return image_format(self._files.read(name, SNIFFED_BYTES)) is not None
        except (FetchError, *UNREADABLE):
            return False


def is_hidden(name: str) -> bool:
    """Return whether a part of the path `name` is hidden (".…") or a folder that macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def read_images(root: str) -> dict[str, Pixels]:
    """Return every image of a folder or zip by name: uint8 [h, w, 1] of grey files, [h, w, 3] of others.

    Raises:
        FilesError: there are no images, or one cannot be decoded; the message names it.
    """
    files = ImageFiles(root)
    if not files.names:
        raise FilesError(f"{root} holds no images")
    return {name: files.pixels(name) for name in files.names}


def write_image(path: Path, image: Pixels) -> None:
    """Write `image`, uint8 [h, w, 1, 3 or 4], as a PNG file, and create missing folders.

    Raises:
        FilesError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    except OSError as error:
        raise FilesError(f"{path} cannot be written ({error.strerror or error})") from error


def some_of(names: Iterable[str]) -> str:
    """Return the first `NAMED_FILES` of `names` and how many more there are, as one text."""
    listed = [printable(name) for name in names]
    more = f" and {len(listed) - NAMED_FILES} more" if len(listed) > NAMED_FILES else ""
    return ", ".join(listed[:NAMED_FILES]) + more


def left_out_line(left_out: dict[str, str]) -> str:
    """Return one line on the files that were left out, such as "left out 3 files: 2 no image (a.txt, b.md); …"."""
    reasons = Counter(left_out.values())
    parts = [
        f"{count} {reason} ({some_of(name for name, why in left_out.items() if why == reason)})"
        for reason, count in reasons.most_common()
    ]
    return f"left out {len(left_out)} files: {'; '.join(parts)}" if parts else ""


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of `items` at equal distances, starting with the first; all of them if there are fewer."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]
