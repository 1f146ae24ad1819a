"""Results have the names of their images, and no two results have one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorse_common.result_names import result_names

_PARTS = st.sampled_from(["a", "a.png", "a.jpg", "a.png-000000", "a.png-000001", "a.jpg.png", "a.png.png"])
_PATHS = st.lists(st.lists(_PARTS, min_size=1, max_size=3).map("/".join), max_size=8)


@pytest.mark.parametrize(
    ("names", "results"),
    [
        (["a.jpg", "b.png", "c/a.jpg"], ["a", "b", "c/a"]),
        (["a.jpg", "a.png", "c/a.png"], ["a.jpg", "a.png", "c/a"]),
        (["d.png", "d.png"], ["d.png-000000", "d.png-000001"]),
        (["d.png", "d.png-000000.png", "d.png"], ["d.png-000000", "d.png-000000.png", "d.png-000002"]),
        (["a.jpg", "a.png/b.jpg"], ["a.jpg", "a.png/b"]),
        (["a.png", "a.jpg", "a.jpg.gif"], ["a.png", "a.jpg", "a.jpg.gif"]),
        (["a", "a.png/b.jpg"], ["a-000000", "a.png/b"]),
        ([], []),
    ],
)
def test_results_keep_as_little_of_the_ending_as_they_can(names: list[str], results: list[str]) -> None:
    assert result_names(names, "png") == results


@pytest.mark.parametrize(
    "name", [f"{'a' * 300}.png", f"{'ü' * 126}.png", f"{'d' * 300}/a.png", "/".join(["part"] * 400)]
)
def test_results_are_short_enough_for_every_storage(name: str) -> None:
    results = result_names([name, name, "b.png"], "png")
    assert results[2] == "b"
    assert len(set(results)) == 3
    for result in results:
        assert len(result.encode()) <= 800
        assert all(0 < len(part.encode()) <= 240 for part in result.split("/"))


def test_results_of_names_that_differ_in_what_is_cut_have_their_position() -> None:
    names = [f"{'a' * 300}{number}.png" for number in range(2)]
    assert result_names(names, "png") == [f"{'a' * 233}-{number:06d}" for number in range(2)]


@given(_PATHS)
def test_results_are_files_of_one_folder(names: list[str]) -> None:
    files = [f"{result}.png" for result in result_names(names, "png")]
    assert len(set(files)) == len(names)
    assert not [one for one in files for other in files if other.startswith(f"{one}/")]
