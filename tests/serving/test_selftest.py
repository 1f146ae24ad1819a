"""`verify_artifact` accepts sound artifacts and detects damaged files, with onnxruntime alone."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import artifacts
from serving.engine import OrtEngine
from serving.errors import ArtifactError
from serving.selftest import check_golden, verify_artifact
from tests.serving.forged import MODELS, flip, forge, start_replica, weight_at
from tests.serving.tiny import write


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write(tmp_path, *MODELS["digits"])


def golden(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_verify_accepts_an_unchanged_artifact(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, *MODELS[name])
    result = verify_artifact(folder, "cpu")
    assert (result.samples, result.buckets, result.max_grey_diff) == (1, 0, 0)
    assert result.artifact.path == folder
    assert min(result.seconds.values()) > 0
    start_replica(folder)


def test_verify_accepts_a_copied_artifact(digits: Path, tmp_path: Path) -> None:
    assert verify_artifact(Path(shutil.copytree(digits, tmp_path / "elsewhere")), "cpu").max_grey_diff == 0


# Weights


@pytest.mark.parametrize("bit", [0, 22, 30])
def test_digest_detects_one_flipped_bit_of_a_weight(digits: Path, bit: int) -> None:
    flip(digits / "model.onnx", weight_at(digits), bit)
    with pytest.raises(ArtifactError, match=r"digits/1/model\.onnx is not the file that manifest\.json describes"):
        verify_artifact(digits, "cpu")


@pytest.mark.parametrize("bit", [20, 22, 23, 26, 30, 31])
def test_golden_sample_detects_one_flipped_bit_of_a_weight_under_a_forged_digest(digits: Path, bit: int) -> None:
    flip(digits / "model.onnx", weight_at(digits), bit)
    forge(digits)
    message = r"digits/1: its golden sample is up to \d+ grey levels from what was proved \(1 allowed\)"
    with pytest.raises(ArtifactError, match=message):
        verify_artifact(digits, "cpu")
    with pytest.raises(ArtifactError, match=message):
        start_replica(digits)


def test_verify_checks_weights_in_a_separate_file(tmp_path: Path) -> None:
    folder = write(tmp_path, *MODELS["digits"], weights_apart=True)
    assert verify_artifact(folder, "cpu").max_grey_diff == 0
    whole = (folder / "model.onnx.data").read_bytes()
    flip(folder / "model.onnx.data", weight_at(folder, "model.onnx.data"), 22)
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data is not the file"):
        verify_artifact(folder, "cpu")
    forge(folder)
    with pytest.raises(ArtifactError, match="golden sample"):
        verify_artifact(folder, "cpu")
    (folder / "model.onnx.data").write_bytes(whole)
    forge(folder)
    assert verify_artifact(folder, "cpu").max_grey_diff == 0


# Files


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "golden.npz"])
def test_verify_names_a_missing_file(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, *MODELS["digits"], weights_apart=True)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"digits/1/{name} is missing: export the model again"):
        verify_artifact(folder, "cpu")


def test_verify_names_a_missing_manifest(digits: Path) -> None:
    (digits / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"there is no artifact at .*/digits/1: give an artifact folder"):
        verify_artifact(digits, "cpu")


def test_verify_names_a_changed_golden_sample(digits: Path) -> None:
    flip(digits / "golden.npz", 200, 1)
    with pytest.raises(ArtifactError, match=r"golden\.npz is not the file that manifest\.json describes"):
        verify_artifact(digits, "cpu")


INPUT, OUTPUT = "input/0/latent", "output/0/image"
FAR = r"its golden sample is up to \d+ grey levels from"


def brighter(arrays: dict[str, Any]) -> dict[str, Any]:
    image = arrays[OUTPUT].copy()
    image[0, 0, 0, 0] ^= 2
    return {**arrays, OUTPUT: image}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (brighter, FAR),
        (lambda arrays: {**arrays, INPUT: arrays[INPUT][::-1]}, FAR),
        (lambda arrays: {**arrays, OUTPUT: arrays[OUTPUT][:1]}, r"\[2, 8, 8, 3\] and uint8 \[1, 8, 8, 3\] was"),
        (
            lambda arrays: {**arrays, OUTPUT: arrays[OUTPUT].astype(np.float32)},
            r"and float32 \[2, 8, 8, 3\] was",
        ),
        (
            lambda arrays: {**arrays, "input/1/latent": arrays[INPUT], "output/1/image": np.zeros_like(arrays[OUTPUT])},
            FAR,
        ),
        (lambda arrays: {**arrays, INPUT: np.full_like(arrays[INPUT], np.nan)}, FAR),
    ],
    ids=["one pixel", "other codes", "fewer images", "another dtype", "a second sample", "no numbers"],
)
def test_replica_refuses_a_golden_sample_that_the_model_does_not_reproduce(
    digits: Path, change: Callable[[dict[str, Any]], dict[str, Any]], reason: str
) -> None:
    np.savez(digits / "golden.npz", **change(golden(digits)))
    forge(digits)
    for proves in (lambda: verify_artifact(digits, "cpu"), lambda: start_replica(digits)):
        with pytest.raises(ArtifactError, match=rf"digits/1: .*{reason}"):
            proves()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:400]),
        lambda path: flip(path, 200, 1),
        lambda path: np.save(path.with_name("one.npy"), np.zeros(3)) or path.with_name("one.npy").replace(path),
        lambda path: np.savez(path),
        lambda path: np.savez(path, **{INPUT: np.zeros((1, 6), np.float32)}),
        lambda path: np.savez(path, **{INPUT: np.array([{}]), OUTPUT: np.zeros(1)}),
        lambda path: np.savez(path, **{INPUT: np.zeros(1), OUTPUT: np.zeros(1), "other": np.zeros(1)}),
    ],
    ids=["text", "empty", "cut", "a bit", "one array", "no arrays", "no outputs", "pickles", "a stray"],
)
def test_replica_refuses_an_unreadable_golden_file(digits: Path, damage: Callable[[Path], object]) -> None:
    damage(digits / "golden.npz")
    forge(digits)
    for proves in (lambda: verify_artifact(digits, "cpu"), lambda: start_replica(digits)):
        with pytest.raises(ArtifactError, match=r"digits/1/golden\.npz breaks the artifact contract"):
            proves()


def test_check_golden_compares_the_engine_that_will_serve(digits: Path) -> None:
    artifact = artifacts.load(digits)
    samples = artifacts.golden(artifact)

    class Brighter:
        """Makes images that are wrong by `by` grey levels, like a faulty kernel of a provider."""

        providers = ("BadProvider",)

        def __init__(self, by: int) -> None:
            self.by = by

        def run(self, tensors: Any) -> dict[str, Any]:
            image = OrtEngine(artifact.model, "cpu", 1).run(tensors)["image"]
            return {"image": np.where(image < 128, image + self.by, image - self.by).astype(np.uint8)}

    assert check_golden(Brighter(1), artifact, samples) == 1
    with pytest.raises(ArtifactError, match=r"up to 2 grey levels .* \(1 allowed\) on BadProvider"):
        check_golden(Brighter(2), artifact, samples)
    lax = dataclasses.replace(artifact.manifest, proof=dataclasses.replace(artifact.manifest.proof, replay_tolerance=2))
    assert check_golden(Brighter(2), dataclasses.replace(artifact, manifest=lax), samples) == 2
    with pytest.raises(ArtifactError, match=r"up to 3 grey levels .* \(2 allowed\)"):
        check_golden(Brighter(3), dataclasses.replace(artifact, manifest=lax), samples)
