"""The commands of batch jobs: their options, outputs and exit codes. The shards exist already: no Ray is needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer

from serving.batch import job
from serving.batch.job import JobOptions
from serving.cli import register
from tests.serving.batch.jobs import files_of, invoke, make_all, plan_of_command
from tests.serving.tiny import conditional_manifest, generator_graph, write
from zorse_common.image_writer import encode

REFUSED: dict[str, tuple[object, str]] = {
    "--count": (21, "count 21 instead of 20"),
    "--seed": (8, "seed 8 instead of 7"),
    "--first": (5, "first 5 instead of 0"),
    "--truncation": (0.5, "truncation 0.5 instead of 1.0"),
    "--label": ("dog", "labels 1 instead of null"),
    "--format": ("zip", 'format "zip" instead of "webdataset"'),
    "--image-format": ("webp", 'image_format "webp" instead of "png"'),
    "--shard-size": (9, "shard_size 9 instead of 8"),
    "--device": ("cuda", 'device "cuda" instead of "cpu"'),
}
FREE = {"--workers": 3, "--per-gpu": 2, "--address": "127.0.0.1:1", "--max-errors": 3}
NO_KEYS = {"--out", "--output", "--api-key", "--verify"}
"""Options of `generate` that are no keys of a batch job."""


def test_changed_options_are_refused_or_change_nothing(tmp_path: Path) -> None:
    model = write(tmp_path / "repository", generator_graph(classes=3), conditional_manifest())
    make_all(model, plan_of_command(model, {"seed": 7}, 20, JobOptions(device="cpu", shard_size=8)), tmp_path / "out")
    words = ["generate", model, "--count", 20, "--seed", 7, "--output", tmp_path / "out", "--device", "cpu"]
    command = [*words, "--shard-size", 8]
    assert invoke(*command).exit_code == 0
    before = files_of(tmp_path / "out")
    for option, (value, difference) in REFUSED.items():
        refusal = str(invoke(*command, option, value).exception)
        assert f"belongs to another job ({difference}): repeat its command" in refusal, option
    for option, free in FREE.items():
        assert "as before" in invoke(*command, option, free).stdout, option
    assert files_of(tmp_path / "out") == before
    app = typer.Typer()
    register(app)
    generate = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
    options = {parameter.opts[-1] for parameter in generate.params if parameter.opts[0].startswith("-")}
    assert options == {*REFUSED, *FREE, *NO_KEYS}


def test_translation_counts_bad_inputs_and_exits_by_their_number(repository: Path, tmp_path: Path) -> None:
    photos, out, model = tmp_path / "photos", tmp_path / "out", repository / "invert"
    photos.mkdir()
    for number in range(5):
        (photos / f"{number}.png").write_bytes(encode(np.full((20, 24, 3), number, np.uint8)))
    (photos / "bad.png").write_bytes(b"no image")
    plan = plan_of_command(model, {}, 6, JobOptions(device="cpu", format="images"))
    plan = plan.model_copy(update={"inputs": job.inputs_digest(job.list_inputs(str(photos)))})
    make_all(model, plan, out, str(photos))
    command = ["translate", model, "--input", photos, "--output", out, "--format", "images", "--device", "cpu"]
    result = invoke(*command)
    assert result.exit_code == 1, result.output
    assert "1 inputs were bad" in result.stderr
    assert invoke(*command, "--max-errors", 1).exit_code == 0
    (row,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert (row["name"], row["number"]) == ("bad.png", 5)
    status = json.loads(invoke("batch", "status", out, "--json").stdout)
    assert (status["state"], status["errors"], status["images"]) == ("finished", 1, 6)


def test_options_of_batch_jobs_need_an_output(repository: Path, tmp_path: Path) -> None:
    result = invoke("generate", repository / "digits", "--out", tmp_path / "x.png", "--workers", 2)
    assert result.exit_code == 2
    assert "--workers needs --output" in result.output
    result = invoke("generate", repository / "digits", "--out", tmp_path / "x.png", "--output", tmp_path)
    assert result.exit_code == 2
    assert invoke("generate", repository / "digits").exit_code == 2
    assert invoke("translate", repository / "invert").exit_code == 2
    assert invoke("translate", repository / "invert", "--output", tmp_path).exit_code == 2
