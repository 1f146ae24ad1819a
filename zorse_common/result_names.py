"""Names the results of image files: as the files are called, but never two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

_PART_BYTES, _PATH_BYTES = 240, 800
"""File systems allow parts of 255 bytes, and S3 paths of 1024. Endings, and the folder of the results, need room."""


def result_names(names: Sequence[str], ending: str) -> list[str]:
    """Return the name of the result of each of `names`, relative paths with `/`, without its `ending` ("png").

    It is the name without its ending. Names that would become one result, or of which one would become a file where
    another has a folder, keep their ending; if that is not enough they have their position among `names` appended, as
    often as necessary. Parts and paths that are too long are cut. The results are a pure function of the names, and
    with the ending all of them can be files of one folder.
    """
    attempts = [0] * len(names)
    while True:
        results = [_attempt(name, number, attempts[number]) for number, name in enumerate(names)]
        count, folders = Counter(results), _folders(results)
        clashes = [n for n, result in enumerate(results) if count[result] > 1 or f"{result}.{ending}" in folders]
        if not clashes:
            return results
        # Of two alike, the one whose name was changed less changes first.
        fewest: dict[str, int] = {}
        for number in clashes:
            fewest[results[number]] = min(attempts[number], fewest.get(results[number], attempts[number]))
        for number in clashes:
            attempts[number] += attempts[number] == fewest[results[number]]


def _attempt(name: str, number: int, attempt: int) -> str:
    if attempt == 0:
        return _cut_path(str(PurePosixPath(name).with_suffix("")))
    return _cut_path(name, f"-{number:06d}" * (attempt - 1))


def _cut_path(path: str, end: str = "") -> str:
    """Return `path` and `end`. Parts, and then the path, that are longer than storages allow are cut before `end`."""
    if len(path.encode(errors="surrogatepass")) + len(end) <= _PART_BYTES:
        return path + end
    *folders, last = path.split("/")
    parts = [*(_cut(folder, _PART_BYTES) for folder in folders), _cut(last, _PART_BYTES - len(end))]
    return _cut("/".join(parts), _PATH_BYTES - len(end)).rstrip("/") + end


def _cut(text: str, most: int) -> str:
    """Return the beginning of `text` that has at most `most` bytes in UTF-8, in whole characters."""
    text = text[:most]
    while len(text.encode(errors="surrogatepass")) > most:
        text = text[:-1]
    return text


def _folders(results: Sequence[str]) -> set[str]:
    """Return every folder that a path of `results` goes through."""
    folders: set[str] = set()
    for result in results:
        folder = result.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders
