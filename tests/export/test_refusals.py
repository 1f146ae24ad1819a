"""What must not become an artifact does not: the error says why, and nothing is on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from export.errors import ExportError, ProofError, RefusedError, UnsupportedGraphError
from export.manifest import read_manifest
from export.pipeline import export
from export.wrapper import wrap
from tests.export.conftest import MakeSnapshot
from tests.export.faults import register_faulty
from tests.export.networks import LARGEST, SIDE, TRANSLATOR
from trainer.snapshot import Network

BEFORE, PROOF = (UnsupportedGraphError, "toy-AtoB cannot be exported"), (ProofError, "toy-AtoB is not proved")
FAULTS = {
    "dropout": (BEFORE, r"^dropout at middle \(Dropout\) is live: let dropout follow eval\(\)$"),
    "functional dropout": (BEFORE, r"^dropout at FaultyTranslator is live: let dropout follow eval\(\)$"),
    "noise": (BEFORE, r"^randn_like at FaultyTranslator draws random numbers: make noise an input of the network$"),
    "random brightness": (BEFORE, r"^rand at FaultyTranslator draws random numbers"),
    "padding": (BEFORE, r"^its images are 34×30 and should be 36×32: check its padding and strides$"),
    "multiple": (BEFORE, r"^its images are 32×32 and should be 33×32: check its padding and strides$"),
    "not a number": (BEFORE, r"^weights are not finite \(last\.weight\): export an earlier snapshot$"),
    "statistics of the batch": (BEFORE, r"^batch_norm at FaultyTranslator uses the statistics of the batch"),
    "layout": (BEFORE, r"^its images are \[2, 32, 36, 3\], channels last: transpose them"),
    "number of bright values": (BEFORE, r"depends? on the images' values"),
    "branch on a value": (BEFORE, r"^a shape or a branch depends on the images' values \(.*: make it depend on"),
    "fixed batch": (BEFORE, r"^torch cannot trace it with a free batch, height and width \("),
    "fixed channels": (BEFORE, r"^it does not run on \(2, 32, 36, 3\) \(index 7 is out of bounds"),
    "float64": (BEFORE, r"^mul at FaultyTranslator computes in float64: keep the network in float32"),
    "swapped axes": (BEFORE, r"^its images are \[2, 3, 36, 32\], height and width swapped: transpose them"),
    "hyperbolic": (BEFORE, r"^onnxruntime has no CUDA kernel for Sinh and would run them on the CPU.*--provider cpu$"),
    "mean of the batch": (PROOF, r"^in a batch of 3 an image is [\d.]+ grey levels from what it is alone"),
    "logarithm of nothing": (PROOF, r"^for input \(1, 32, 32, 3\) \d+ of 3072 values of torch [\d.]+ are not finite$"),
}


@pytest.fixture(scope="module")
def faulty() -> str:
    """The name of an architecture whose `fault` can be chosen."""
    return register_faulty()


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_model_is_refused_and_nothing_is_written(
    fault: str, faulty: str, make_snapshot: MakeSnapshot, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (kind, title), reason = FAULTS[fault]
    place = make_snapshot("pix2pix", G=Network({"type": faulty, "fault": fault}, "AtoB", SIDE))
    with pytest.raises(RefusedError) as caught:
        export(place, str(tmp_path / "repository"), max_size=LARGEST)
    assert isinstance(caught.value, ExportError)
    assert caught.value.message == title
    assert caught.group_contains(kind, match=reason, depth=1)
    assert str(caught.value).startswith(f"{title}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 * len(caught.value.exceptions)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "repository").exists()


# In integers the means of other images may already be too far from the reference, which depends on the processor.
@pytest.mark.parametrize(
    ("target", "reason"),
    [("onnx-fp16", "in a batch of 3 an image is"), ("onnx-int8", "in a batch of 3 an image is|grey levels from torch")],
)
def test_faulty_model_is_refused_by_the_other_targets(
    target: str, reason: str, faulty: str, make_snapshot: MakeSnapshot, pictures: Path, tmp_path: Path
) -> None:
    place = make_snapshot("pix2pix", G=Network({"type": faulty, "fault": "mean of the batch"}, "AtoB", SIDE))
    with pytest.raises(RefusedError) as caught:
        export(place, str(tmp_path / "repository"), target=target, images=str(pictures), max_size=LARGEST)
    assert caught.group_contains(ProofError, match=reason)
    assert not (tmp_path / "repository").exists()


def test_faultless_model_of_the_same_architecture_is_exported(
    faulty: str, make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    place = make_snapshot("pix2pix", G=Network({"type": faulty}, "AtoB", SIDE))
    (artifact,) = export(place, str(tmp_path), max_size=LARGEST)
    assert read_manifest(Path(artifact)).proof.max_grey_diff <= 1


def test_operator_without_a_cuda_kernel_may_run_on_the_cpu(
    faulty: str, make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    place = make_snapshot("pix2pix", G=Network({"type": faulty, "fault": "hyperbolic"}, "AtoB", SIDE))
    (artifact,) = export(place, str(tmp_path), max_size=LARGEST, provider="cpu")
    assert read_manifest(Path(artifact)).proof.max_grey_diff <= 1


@pytest.mark.parametrize(("fault", "is_proved_first"), [("noise", False), ("mean of the batch", True)])
def test_refused_network_keeps_the_others_unpublished(
    fault: str, is_proved_first: bool, faulty: str, make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    place = make_snapshot(
        "cyclegan", A2B=Network(TRANSLATOR, "AtoB", SIDE), B2A=Network({"type": faulty, "fault": fault}, "BtoA", SIDE)
    )
    lines: list[str] = []
    with pytest.raises(RefusedError, match=r"toy-BtoA (cannot be exported|is not proved)"):
        export(place, str(tmp_path / "repository"), max_size=LARGEST, report=lines.append)
    assert any(line.startswith("toy-AtoB: proving it") for line in lines) == is_proved_first
    assert not (tmp_path / "repository").exists()


def test_network_of_neither_kind_is_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"odd \(Linear\) is neither a generator nor a translator"):
        wrap(nn.Linear(2, 2), "odd", training_size=4)
