"""`zorse models`, from its words to what it prints and does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from export import models_cli
from export.errors import ExportError, ManifestError, RepositoryError
from export.interface import Interface, SizeLimits, TensorSpec
from export.layout import ALIASES_FILE
from export.manifest import MANIFEST_FILE, Cycle
from export.repository import Repository
from tests.export.artifacts import add, manifest, stage, tree

SHAPE = ("batch", "height", "width", 3)
app = typer.Typer()
models_cli.register(app)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no cell is folded."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two versions of `digits`, the first of them `stable`, and one of the translator `invert`."""
    repository = Repository(str(tmp_path / "models"))
    for seen in (1280, 256000):
        provenance = dataclasses.replace(manifest(stage(tmp_path / "staged")).provenance, images_seen=seen)
        add(repository, tmp_path, provenance=provenance)
    add(
        repository,
        tmp_path,
        name="invert",
        task="cyclegan",
        direction="AtoB",
        interface=Interface(
            "translator",
            inputs=(TensorSpec("source", "uint8", SHAPE, "[the image]", (0.0, 255.0)),),
            outputs=(TensorSpec("image", "uint8", SHAPE, "the translated image", (0.0, 255.0)),),
            size=SizeLimits.square(4, 14, 510),
        ),
        licence=None,
        metrics={},
        buckets=((8, 256, 256, 3),),
    )
    repository.promote("digits", 1, "stable")
    return repository


def run(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["models", *words], input=answer)


def done(*words: str, answer: str | None = None) -> str:
    result = run(*words, answer=answer)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str, error: type[ExportError] = RepositoryError) -> str:
    found = run(*words).exception
    assert isinstance(found, error)
    assert "\n" not in str(found)
    return str(found)


def cells(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in printed.splitlines() if line]


def test_list_has_a_line_for_each_version(repository: Repository) -> None:
    assert cells(done("list", repository.place)) == [
        ["model", "version", "aliases", "task", "kind", "target", "size", "images seen"],
        ["digits", "2", "latest", "gan", "generator", "onnx", "0.0 MiB", "256,000"],
        ["digits", "1", "stable", "gan", "generator", "onnx", "0.0 MiB", "1,280"],
        ["invert", "1", "latest", "cyclegan", "translator", "onnx", "0.0 MiB", "1,280"],
    ]


def test_list_prints_the_others_beside_a_broken_artifact(repository: Repository) -> None:
    (Path(repository.place) / "digits" / "1" / MANIFEST_FILE).write_text("{")
    (Path(repository.place) / "invert" / ALIASES_FILE).write_text("[]")
    result = run("list", repository.place)
    assert [line[:2] for line in cells(result.stdout)[1:]] == [["digits", "2"], ["invert", "1"]]
    assert isinstance(result.exception, RepositoryError)
    assert "digits/1/manifest.json is not JSON" in str(result.exception)
    assert "invert/aliases.json is not a JSON object" in str(result.exception)


def test_list_of_an_empty_repository(tmp_path: Path) -> None:
    assert done("list", str(tmp_path)) == f"no models in {tmp_path}\n"
    assert "no model repository" in refused("list", str(tmp_path / "nothing"))


def test_show_prints_all_facts_of_a_generator(repository: Repository) -> None:
    printed = done("show", repository.place, "digits@stable")
    lines = cells(printed)
    entry = repository.manifest("digits", 1).files["model.onnx"]
    for line in (
        ["model", "digits@1"],
        ["aliases", "stable"],
        ["latent", "8 normal numbers"],
        ["licence", "CC0"],
        ["nodes", "12"],
        ["latent", "in", "float32", "batch x 8", "any", "the code"],
        ["image", "out", "uint8", "batch x 16 x 16 x 1", "0 to 255", "the image"],
        ["against", "torch 2.13.0"],
        ["largest difference", "1 of 1 grey levels allowed"],
        ["PSNR", "61.5 dB"],
        ["shapes", "1 x 8", "3 x 8"],
        ["images seen", "1,280"],
        ["weights", "moving average"],
        ["model.onnx", "0.0 MiB", entry.sha256],
        ["fid", "12.5"],
    ):
        assert line in lines
    assert "heights" not in printed


def test_show_prints_sizes_and_markup_of_a_translator(repository: Repository) -> None:
    lines = cells(done("show", repository.place, "invert"))
    for line in (
        ["model", "invert@1"],
        ["aliases", "latest"],
        ["direction", "AtoB"],
        ["heights", "multiples of 4 from 16 to 508"],
        ["licence", "none stated"],
        ["source", "in", "uint8", "batch x height x width x 3", "0 to 255", "[the image]"],
        ["fixed shapes", "8 x 256 x 256 x 3"],
    ):
        assert line in lines
    assert ["figure", "value"] not in lines


def test_show_prints_the_cycle_and_identical_images(repository: Repository, tmp_path: Path) -> None:
    proof = dataclasses.replace(manifest(stage(tmp_path / "staged")).proof, psnr=None, cycle=Cycle(4.25, 4.5))
    add(repository, tmp_path, name="pair", proof=proof)
    lines = cells(done("show", repository.place, "pair"))
    assert ["PSNR", "identical"] in lines
    assert ["there and back", "4.50 grey levels, 4.25 with torch 2.13.0"] in lines


def test_promote_sets_the_alias_and_reports_it(repository: Repository) -> None:
    assert done("promote", repository.place, "digits@latest", "next") == (
        f"digits@next is version 2 in {repository.place}\n"
    )
    assert repository.aliases("digits") == {"next": 2, "stable": 1}
    assert "digits names no version" in refused("promote", repository.place, "digits", "next")
    assert "neither a number nor 'latest'" in refused("promote", repository.place, "digits@1", "latest")


def test_delete_asks_first(repository: Repository) -> None:
    assert run("delete", repository.place, "digits@2", answer="n\n").exit_code == 1
    assert repository.versions("digits") == [1, 2]
    assert "Delete digits@2" in done("delete", repository.place, "digits@2", answer="y\n")
    assert repository.versions("digits") == [1]
    assert "is stable" in refused("delete", repository.place, "digits@1", "--yes")
    assert done("delete", repository.place, "digits@stable", "--alias") == (
        f"digits@stable names nothing in {repository.place} any more\n"
    )
    done("delete", repository.place, "digits@1", "--yes")
    assert list(repository.models().manifests) == ["invert"]
    assert "invert names no version" in refused("delete", repository.place, "invert", "--yes")
    assert "no alias" in refused("delete", repository.place, "invert", "--alias")
    assert list(repository.models().manifests) == ["invert"]


@pytest.mark.parametrize("command", ["push", "pull"])
def test_push_and_pull_copy_a_version_and_set_the_alias(repository: Repository, tmp_path: Path, command: str) -> None:
    other = Repository(str(tmp_path / "other"))
    assert done(command, repository.place, "digits@stable", other.place, "--alias", "live") == (
        f"digits@1 is in {other.place} as digits@live\n"
    )
    assert tree(Path(other.place) / "digits" / "1") == tree(Path(repository.place) / "digits" / "1")
    assert other.aliases("digits") == {"live": 1}
    assert done(command, repository.place, "digits", other.place) == f"digits@2 is in {other.place}\n"
    assert other.versions("digits") == [1, 2]


def test_push_refuses_missing_and_broken_versions(repository: Repository, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    assert "has no model numbers: it has digits, invert" in refused("push", repository.place, "numbers", other)
    (Path(repository.place) / "invert" / "1" / "golden.npz").unlink()
    assert "golden.npz is missing" in refused("push", repository.place, "invert", other)
    (Path(repository.place) / "digits" / "1" / MANIFEST_FILE).write_text("{")
    refused("push", repository.place, "digits@1", other, error=ManifestError)
    assert Repository(other).versions("invert") == Repository(other).versions("digits") == []
