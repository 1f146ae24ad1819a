"""`zorse data info` on the collection of odd inputs that other tools and earlier versions failed on.

The collection is a program that makes the inputs. It lies beside the repository, or where ZORSE_CASES says.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zorse.cli import app

PROGRAM = Path(os.environ.get("ZORSE_CASES", Path(__file__).parents[3] / "shared" / "cases")) / "make.py"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a folder of inputs for each case."""
    if not PROGRAM.is_file():
        pytest.skip(f"there is no {PROGRAM}: set ZORSE_CASES to the folder of the cases")
    spec = importlib.util.spec_from_file_location("make_cases", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("cases")
    for case in module.CASES:
        (root / case.__name__).mkdir()
        case(root / case.__name__)
    return root


def _collections(info: dict[str, Any], dataset: str) -> dict[str, int]:
    (view,) = (view for view in info["datasets"] if view["type"] == dataset)
    counts: dict[str, int] = view["collections"]
    return counts


def _refusal(info: dict[str, Any], dataset: str) -> str:
    (view,) = (view for view in info["datasets"] if view["type"] == dataset)
    return str(view["refused"])


def _is_whole(info: dict[str, Any], images: int) -> bool:
    return (info["images"], info["unreadable"]) == (images, {})


def _class_named_train(info: dict[str, Any]) -> None:
    assert _is_whole(info, 30)
    assert {name: facts["images"] for name, facts in info["folders"].items()} == {"bus": 10, "car": 10, "train": 10}
    assert "10 images in train/ and 20 elsewhere (bus, car)" in _refusal(info, "folder")


def _parent_of_data_sets(info: dict[str, Any]) -> None:
    assert _is_whole(info, 20)
    assert "more than one data set (apple2orange/trainA and horse2zebra/trainA)" in _refusal(info, "unpaired")


def _backslash_splits(info: dict[str, Any]) -> None:
    assert _is_whole(info, 16)
    assert info["left_out"] == {"__MACOSX/._00.png": "hidden"}
    assert _collections(info, "folder") == {"training": 12, "held out": 4}


def _backslash_domains(info: dict[str, Any]) -> None:
    assert _is_whole(info, 24)
    assert _collections(info, "unpaired") == dict.fromkeys(("trainA", "trainB", "testA", "testB"), 6)


def _full_range(info: dict[str, Any]) -> None:
    assert _is_whole(info, 16)
    greys = info["deep_greys"]["16-bit PNG"]
    assert (greys["images"], greys["narrow"], greys["ranges"], greys["likely_range"]) == (16, 0, [[0, 65535]], None)
    assert _refusal(info, "unpaired") == "None"


def _narrow(kind: str, top: int, limit: int) -> Callable[[dict[str, Any]], None]:
    def check(info: dict[str, Any]) -> None:
        assert _is_whole(info, 16)
        greys = info["deep_greys"][kind]
        assert (greys["images"], greys["narrow"], greys["ranges"]) == (16, 16, [[0, limit]])
        assert 0.9 * top < greys["most"] <= top
        assert greys["likely_range"] == [0, top]
        assert "set data.value_range to their values of black and white" in _refusal(info, "unpaired")

    return check


def _other_suffixes(info: dict[str, Any]) -> None:
    assert _is_whole(info, 26)
    assert info["formats"] == {"JPEG": 22, "PPM": 2, "TGA": 2}
    assert info["left_out"] == {f"train{domain}/notes.txt": "no image" for domain in "AB"}
    assert _collections(info, "unpaired")["trainA"] == 13


def _not_utf8_name(info: dict[str, Any]) -> None:
    assert _is_whole(info, 13)
    assert _collections(info, "unpaired") == {"trainA": 7, "trainB": 6, "testA": 0, "testB": 0}


def _link_loop(info: dict[str, Any]) -> None:
    assert _is_whole(info, 8)
    assert info["left_out"] == {"trainA/up": "a link to a folder that is read already"}
    assert _collections(info, "unpaired") == {"trainA": 4, "trainB": 4, "testA": 0, "testB": 0}


def _odd_exif(info: dict[str, Any]) -> None:
    assert _is_whole(info, 6)
    assert (info["turned"], info["width"]["most"], info["height"]["least"]) == (6, 30, 60)


def _export_pictures(info: dict[str, Any]) -> None:
    assert info["images"] == 3
    assert list(info["unreadable"]) == ["postscript.png"]
    assert "is not a PNG, JPEG" in info["unreadable"]["postscript.png"]
    assert info["modes"] == {"RGBA": 1, "I;16": 1}


def _checkpoints(info: dict[str, Any]) -> None:
    assert _is_whole(info, 0)
    assert len(info["left_out"]) == 6
    assert set(info["left_out"].values()) == {"no image"}
    assert "holds no images" in _refusal(info, "folder")


TRUTHS: dict[str, Callable[[dict[str, Any]], None]] = {
    "class_named_train": _class_named_train,
    "parent_of_data_sets": _parent_of_data_sets,
    "backslash_zip/train_test.zip": _backslash_splits,
    "backslash_zip/unpaired.zip": _backslash_domains,
    "sixteen_bit/full_range": _full_range,
    "sixteen_bit/twelve_bits": _narrow("16-bit PNG", 4095, 65535),
    "sixteen_bit/eight_bits_in_sixteen": _narrow("16-bit PNG", 255, 65535),
    "sixteen_bit/int32_tiff": _narrow("32-bit TIFF", 65535, 2**31 - 1),
    "other_suffixes": _other_suffixes,
    "not_utf8_name": _not_utf8_name,
    "link_loop": _link_loop,
    "odd_exif": _odd_exif,
    "export_pictures": _export_pictures,
    "checkpoints": _checkpoints,
}


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("case", TRUTHS)
def test_info_tells_the_truth_about_a_case(cases: Path, case: str, decode: bool) -> None:
    words = ["data", "info", str(cases / case), "--json", *(["--decode"] if decode else [])]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    TRUTHS[case](json.loads(result.stdout))


def test_every_case_has_a_truth(cases: Path) -> None:
    assert {case.split("/")[0] for case in TRUTHS} == {folder.name for folder in cases.iterdir()}
