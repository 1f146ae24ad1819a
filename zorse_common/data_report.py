"""Examines a set of image files: counts, sizes, kinds of pixels, values, duplicates, and what cannot be read and why.

Files are read one after another and forgotten. What stays in memory is the list of names and, for files of equal size,
a digest of each.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar

from zorse_common.errors import FetchError, one_line, printable
from zorse_common.files import UNREADABLE, ImageFiles, evenly_spaced
from zorse_common.image_details import GreyValues, grey_values, is_turned
from zorse_common.images import MAX_PIXELS, Header, ImageError, check_pixels, decode_image, read_header

S = TypeVar("S")
T = TypeVar("T")

EXAMINED_FILES = 16
"""How many greys of more than 8 bits of one kind are decoded to learn their values, unless all files are decoded."""
_HEADER_BYTES = 2**16
"""How many bytes of a file are read for its header. Where they do not suffice, the whole file is read."""
_DIGEST_BYTES = 16
_THREADS = 8
_ARCHIVE_THREADS = 2
"""Each thread has the directory of a zip in memory once more."""
NARROW = 1 / 16
"""If images of more than 8 bits use a smaller share of their range, the range is probably another one."""
SHARES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
"""The quantiles of a report, by their titles."""


@dataclass(frozen=True)
class Quantiles:
    """The values at `SHARES` of a sorted collection; each is one of the collection's own values."""

    values: tuple[int, ...]

    @classmethod
    def of(cls, counts: Counter[int]) -> Quantiles | None:
        """Return the quantiles of a collection, given how often it has each value; None if it is empty."""
        ordered, total = sorted(counts), counts.total()
        if not total:
            return None
        ranks = [round(share * (total - 1)) for share in SHARES.values()]
        values, seen, index = [], counts[ordered[0]], 0
        for rank in ranks:
            while seen <= rank:
                index += 1
                seen += counts[ordered[index]]
            values.append(ordered[index])
        return cls(tuple(values))


@dataclass
class DeepGreys:
    """Greys of more than 8 bits in files of one kind: how many there are, and the values of those examined.

    Attributes:
        ranges: the values of black and white that the files state, or the limits of their integers.
        narrow: how many of those examined use less than `NARROW` of that range.
    """

    images: int = 0
    examined: int = 0
    least: float | None = None
    most: float | None = None
    ranges: set[tuple[float, float]] = field(default_factory=set)
    narrow: int = 0

    @property
    def likely_range(self) -> tuple[int, int] | None:
        """The range of the depth that the values seem to have, if all files use less than `NARROW` of theirs."""
        if self.least is None or self.most is None or self.least < 0:
            return None
        if any((self.most - self.least) >= NARROW * (white - black) for black, white in self.ranges):
            return None
        return next(((0, 2**bits - 1) for bits in (8, 10, 12, 14, 16) if self.most < 2**bits), None)

    def add(self, values: GreyValues) -> None:
        """Add the values of one file."""
        self.examined += 1
        self.least = values.least if self.least is None else min(self.least, values.least)
        self.most = values.most if self.most is None else max(self.most, values.most)
        if values.black is not None and values.white is not None:
            self.ranges.add((values.black, values.white))
            self.narrow += values.most - values.least < NARROW * (values.white - values.black)


@dataclass
class DataReport:
    """The facts on a set of image files. All counts are of files whose header can be read, unless said otherwise.

    Attributes:
        folders: images and bytes by folder, of all files that count as images.
        left_out: the reason for each file that does not count as an image, by name.
        unreadable: the reason for each image that cannot be used, by name, sorted.
        formats, modes, bits: how many images have each format, mode (Pillow's name) and depth of a channel.
        widths, heights: how many images have each number of pixels, after the EXIF orientation.
        file_sizes: how many files that count as images have each number of bytes.
        turned: how many images the EXIF orientation turns by 90 degrees.
        deep_greys: greys of more than 8 bits, by their kind, such as "16-bit PNG".
        deep_colours: how many images have colours, or greys with alpha, of more than 8 bits.
        duplicates: groups of names of files with the same bytes.
    """

    folders: dict[str, tuple[int, int]]
    left_out: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    file_sizes: Counter[int] = field(default_factory=Counter)
    turned: int = 0
    deep_greys: dict[str, DeepGreys] = field(default_factory=dict)
    deep_colours: int = 0
    duplicates: list[list[str]] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of files that count as images, whether they can be read or not."""
        return sum(count for count, _ in self.folders.values())

    @property
    def nbytes(self) -> int:
        """The bytes of these files."""
        return sum(size for _, size in self.folders.values())


@dataclass(frozen=True)
class _Facts:
    """What one file says: either a header or the reason why the image cannot be used."""

    name: str
    digest: bytes | None = None
    header: Header | None = None
    turned: bool = False
    reason: str | None = None


def examine(files: ImageFiles, *, decode: bool = False, progress: Callable[[], None] = lambda: None) -> DataReport:
    """Return the facts on `files`. `progress` is called once for each file.

    Without `decode` headers are read, and whole files only where others have the same size, which duplicates must
    have; damaged pixels stay unnoticed. With it each image is decoded as in training.

    Raises:
        FetchError: an object store failed.
    """
    counts = Counter(files.sizes.values())
    report = DataReport(_folders(files), files.left_out, file_sizes=counts)
    first: dict[bytes, str] = {}
    groups: dict[bytes, list[str]] = {}
    deep: dict[str, list[str]] = defaultdict(list)

    def read(name: str) -> _Facts:
        return _read(files, name, is_hashed=counts[files.sizes[name]] > 1, decode=decode)

    for facts in _in_order(read, files.names, _threads(files)):
        progress()
        if facts.digest is not None:
            known = first.setdefault(facts.digest, facts.name)
            if known != facts.name:
                groups.setdefault(facts.digest, [known]).append(facts.name)
        if facts.header is not None:
            _count(report, facts.header, facts.turned)
            if is_deep_grey(facts.header):
                deep[_kind(facts.header)].append(facts.name)
        if facts.reason is not None:
            report.unreadable[facts.name] = facts.reason
    report.duplicates = list(groups.values())
    report.deep_greys = {
        kind: _deep_greys(files, names, len(names) if decode else EXAMINED_FILES) for kind, names in deep.items()
    }
    return report


def is_deep_grey(header: Header) -> bool:
    """Return whether the values of a file are mapped from a value range to 8 bits."""
    return header.bits > 8 and header.channels == 1


def _read(files: ImageFiles, name: str, *, is_hashed: bool, decode: bool) -> _Facts:
    digest = header = None
    turned = False
    try:
        content = files.read(name, None if decode or is_hashed else _HEADER_BYTES)
        if is_hashed:
            digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        try:
            header = read_header(content)
        except ImageError:
            if len(content) == files.sizes[name]:
                raise
            content = files.read(name)
            header = read_header(content)
        turned = is_turned(content)
        check_pixels(header.width, header.height, MAX_PIXELS)
        if decode or header.mode == "F":  # the decoder refuses floating-point values without a value range
            whole = content if len(content) >= files.sizes[name] else files.read(name)
            decode_image(whole, value_range=files.value_range)
    except FetchError:
        raise
    except (ImageError, *UNREADABLE) as error:
        return _Facts(name, digest, header, turned, one_line(error))
    return _Facts(name, digest, header, turned)


def _count(report: DataReport, header: Header, turned: bool) -> None:
    report.formats[header.format] += 1
    report.modes[header.mode] += 1
    report.bits[header.bits] += 1
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    report.widths[width] += 1
    report.heights[height] += 1
    report.turned += turned
    report.deep_colours += header.bits > 8 and header.channels > 1


def _kind(header: Header) -> str:
    return f"{header.bits}-bit {'floating-point ' if header.mode == 'F' else ''}{header.format}"


def _deep_greys(files: ImageFiles, names: Sequence[str], count: int) -> DeepGreys:
    """Decode `count` of the files, evenly spaced, for the limits of their values."""
    greys = DeepGreys(len(names))

    def read(name: str) -> GreyValues | None:
        try:
            return grey_values(files.read(name))
        except FetchError:
            raise
        except (ImageError, *UNREADABLE):
            return None  # reported as unreadable if it was decoded

    for values in _in_order(read, evenly_spaced(names, count), _threads(files)):
        if values is not None:
            greys.add(values)
    return greys


def _folders(files: ImageFiles) -> dict[str, tuple[int, int]]:
    """Return the images and bytes in each folder, by its printable path; "." is the root."""
    folders: dict[str, tuple[int, int]] = {}
    for name, size in files.sizes.items():
        folder = printable(PurePosixPath(name).parent)
        count, nbytes = folders.get(folder, (0, 0))
        folders[folder] = count + 1, nbytes + size
    return dict(sorted(folders.items()))


def _threads(files: ImageFiles) -> int:
    return _THREADS if files.kind == "folder" else _ARCHIVE_THREADS


def _in_order(function: Callable[[S], T], items: Iterable[S], count: int) -> Iterator[T]:
    """Yield the results of `function` in the order of `items`, computed by `count` threads, a little ahead."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(count) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
