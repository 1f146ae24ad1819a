"""Names the results of image files: as the files are called, but never two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath


def result_names(names: Sequence[str], ending: str) -> list[str]:
    """Return the name of the result of each of `names`, relative paths with `/`, without its `ending` ("png").

    It is the name without its ending. Names that would become one result, or of which one would become a file where
    another has a folder, keep their ending; if that is not enough they have their position among `names` appended, as
    often as necessary. The results are a pure function of the names, and with the ending all of them can be files of
    one folder.
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
    return str(PurePosixPath(name).with_suffix("")) if attempt == 0 else name + f"-{number:06d}" * (attempt - 1)


def _folders(results: Sequence[str]) -> set[str]:
    """Return every folder that a path of `results` goes through."""
    folders: set[str] = set()
    for result in results:
        folder = result.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders
