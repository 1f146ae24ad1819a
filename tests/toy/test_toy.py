"""A task of another package goes the whole way, from training to a served model, without a change to zorse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import zorse
from export.manifest import read_manifest
from serving.client import Client
from serving.selftest import verify_artifact
from tests.serving.apps import transport
from tests.toy.components import CLASSES, SIZE
from tests.trainer.fitting import Job, checkpoint, fit_ranks, metrics
from trainer import registry
from trainer.cli import register
from trainer.run_config import RunConfig
from trainer.snapshot import read_snapshot
from trainer.tasks.build import check_fit
from zorse_common.files import write_image

BATCH, STEPS = 6, 2
COMPONENTS = "tests.toy.components"


def _config(folder: Path) -> dict[str, Any]:
    return {
        "run": {
            "dir": str(folder),
            "total_images": STEPS * BATCH,
            "log_images": BATCH,
            "sample_images": BATCH,
            "checkpoint_images": BATCH,
        },
        "batch": {"global_size": BATCH},
        "data": {"type": f"{COMPONENTS}:ColouredDrawings"},
        "task": {
            "type": f"{COMPONENTS}:PaintAndDecode",
            "painter": {"type": f"{COMPONENTS}:Painter"},
            "decoder": {"type": f"{COMPONENTS}:ClassDecoder"},
            "optimizer": {"lr": 0.01},
        },
        "evaluation": {
            "metric": {"type": f"{COMPONENTS}:Colourfulness"},
            "interval_images": BATCH,
            "images": 8,
            "batch": 3,
        },
        "ema": {"half_life_images": 4},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `whole` and `resumed`, both on two ranks, the latter stopped after its first step; their repository."""
    folder = tmp_path_factory.mktemp("toy")
    fit_ranks([Job(_config(folder / "whole")), Job(_config(folder / "resumed"), stop_at=BATCH)], 2)
    fit_ranks([Job(_config(folder / "resumed"))], 2)
    for index in range(4):
        drawing = np.zeros((SIZE, SIZE, 1), np.uint8)
        drawing[index : index + 8, 2:12] = 60 * index + 60
        write_image(folder / "drawings" / f"{index}.png", drawing)
    # The images are for the painter; the decoder takes none.
    options = {"name": "toy", "provider": "cpu", "images": str(folder / "drawings")}
    zorse.export(str(folder / "whole"), str(folder / "repository"), **options)
    return folder


def test_toy_task_fits_its_dataset_and_a_wrong_dataset_is_refused(tmp_path: Path) -> None:
    check_fit(RunConfig.model_validate(_config(tmp_path)))
    wrong = _config(tmp_path) | {"data": {"type": "stripes"}}
    with pytest.raises(Exception, match=r"is for images with 1 channels \(A\), but data stripes has 32x32 images"):
        check_fit(RunConfig.model_validate(wrong))


@pytest.mark.slow
def test_toy_run_resumes_bit_for_bit(folder: Path) -> None:
    whole, resumed = (checkpoint(folder / run, STEPS * BATCH) for run in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert len([name for name in whole if name.startswith("optimizer/exp_avg/P.")]) == 4


@pytest.mark.slow
def test_toy_phases_of_one_set_of_networks_run_at_their_intervals(folder: Path) -> None:
    lines = metrics(folder / "whole")
    assert {seen: "decay" in line["figures"] for seen, line in lines.items()} == {6: True, 12: False}
    assert all({"painting", "decoding", "colourfulness"} <= line["figures"].keys() for line in lines.values())


@pytest.mark.slow
def test_toy_sample_grid_shows_drawing_painting_and_truth(folder: Path) -> None:
    with Image.open(folder / "whole" / "samples" / f"{STEPS * BATCH:010d}.png") as grid:
        assert (grid.mode, grid.size) == ("RGB", (3 * (SIZE + 2) - 2, 8 * (SIZE + 2) - 2))


@pytest.mark.slow
def test_toy_snapshot_is_exported_verified_and_served(folder: Path) -> None:
    places = {name: folder / "repository" / name / "1" for name in ("toy", "toy-AtoB")}
    manifests = {name: read_manifest(place) for name, place in places.items()}
    decoder, painter = manifests["toy"].interface, manifests["toy-AtoB"].interface
    assert [(spec.name, spec.dtype) for spec in decoder.inputs] == [("latent", "float32"), ("label", "int64")]
    assert decoder.labels == tuple(map(str, range(CLASSES)))
    assert (painter.inputs[0].shape[-1], painter.outputs[0].shape[-1]) == (1, 3)
    assert [manifests[name].proof.real_images for name in ("toy", "toy-AtoB")] == [0, 4]
    for place in places.values():
        assert verify_artifact(place, "cpu").max_grey_diff <= 1
    local = {name: zorse.load(place) for name, place in places.items()}

    async def submit(feeds: Any, deadline: float | None = None) -> Any:
        return local["toy" if "latent" in feeds else "toy-AtoB"].run(feeds)

    with Client("http://toy", transport=transport(manifests=list(manifests.values()), submit=submit)) as client:
        generated = client.generate("toy", 4, seed=3, labels=[0, 1, 2, 0])
        assert generated.shape == (4, SIZE, SIZE, 3)
        np.testing.assert_array_equal(generated, local["toy"].generate(4, seed=3, labels=[0, 1, 2, 0]))
        assert not np.array_equal(generated, client.generate("toy", 4, seed=3, labels=[1, 1, 2, 0]))
        drawing = np.zeros((SIZE, SIZE, 1), np.uint8)
        drawing[4:10, 4:10] = 200
        painted = client.translate("toy-AtoB", drawing)
        network = read_snapshot(str(folder / "whole")).build("P")
        with torch.inference_mode():
            values = network(torch.from_numpy(drawing).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
        expected = ((values + 1) * 127.5).permute(1, 2, 0).numpy()
        assert np.abs(painted.astype(float) - expected).max() <= 1


@pytest.mark.slow
def test_toy_metric_evaluates_a_folder(folder: Path, tmp_path: Path) -> None:
    local = zorse.load(folder / "repository" / "toy" / "1")
    images = local.generate(5, labels=0)
    for index, image in enumerate(images):
        write_image(tmp_path / f"{index}.png", image)
    app = typer.Typer()
    register(app)
    command = ["evaluate", str(tmp_path), f"{COMPONENTS}:Colourfulness", "scale=2"]
    scores = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    spread = images.max(axis=3).astype(float) - images.min(axis=3)
    assert scores == {"colourfulness": pytest.approx(2 * spread.mean())}


def test_plug_in_that_cannot_be_imported_is_one_clear_error() -> None:
    for name, reason in (
        ("tests.toy.components:Nothing", "cannot be imported"),
        ("tests.nowhere:Painter", "cannot be imported"),
        ("tests.toy.components:ColouredDrawings", "is not a model"),
        ("tests.toy.components:SIZE", "is not a model"),
    ):
        with pytest.raises(Exception, match=reason):
            registry.resolve("model", {"type": name})
