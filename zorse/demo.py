"""`zorse demo` trains, exports, serves and queries two small models through the public interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import zorse
from export.manifest import read_manifest
from serving.client import Client
from serving.errors import ServingError, StartError
from serving.ports import free_port
from trainer import registry
from trainer.cluster import cluster
from trainer.config_files import find_config, load_config
from trainer.data.digits import CLASSES
from trainer.data.tensors import to_tensor
from trainer.evaluate import evaluate, write_held_out
from trainer.hooks.samples import grid_png
from trainer.progress import ProgressBar
from trainer.run_config import RunConfig
from zorse.thresholds import missed_thresholds
from zorse_common.files import read_images, write_image

FOLDER = Path("runs/demo")
WORKERS = 2
SCORED_DIGITS, CLASSIFIED_DIGITS, DIGITS_PER_REQUEST = 2500, 500, 100
SCORED_PAIRS, FITTED_PAIRS = 200, 200
"""Pairs of stripes on which the translators are scored, and on which the affine baseline is fitted."""
SHOWN_DIGITS, SHOWN_PAIRS = 64, 8
DIGIT_SHAPE = (32, 32, 1)
START_SECONDS, STOP_SECONDS = 120, 60
"""How long the server may take to become ready, and to stop."""
MAX_ERRORS = 10
Images = NDArray[np.uint8]
T = TypeVar("T")
P = ParamSpec("P")


def run_demo() -> bool:
    """Run all stages and return whether the figures reach every threshold.

    Writes pictures, artifacts and `summary.json` to `runs/demo`.

    Raises:
        TrainerError, ExportError, ServingError: a stage failed.
    """
    console = Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        console.rule(stage)
        begin = time.monotonic()
        result = work()
        seconds[stage] = round(time.monotonic() - begin, 1)
        return result

    start = time.monotonic()
    with cluster(WORKERS):
        digits = timed("train digits", lambda: _train("digits", console))
        stripes = timed("train stripes", lambda: _train("stripes", console))
    artifacts, untrained = timed("export", lambda: _export(digits, stripes))
    requests = timed("serve and query", lambda: _query_server(stripes))
    gan = timed("score digits", lambda: _score_digits(untrained))
    cyclegan = timed("score stripes", _score_stripes)
    seconds["total"] = round(time.monotonic() - start, 1)
    proofs = [(artifact, read_manifest(artifact).proof) for artifact in artifacts]
    summary = {
        "gan": gan,
        "cyclegan": cyclegan,
        "export": [
            {"model": artifact.parent.name, "max_grey_diff": proof.max_grey_diff, "psnr": proof.psnr}
            for artifact, proof in proofs
        ],
        "serve": requests,
        "train": {"workers": digits.run.workers, "engine": "deepspeed"},
        "seconds": seconds,
    }
    (FOLDER / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.rule()
    console.print_json(data=summary)
    console.print(f"pictures: {FOLDER / 'digits.png'}, {FOLDER / 'stripes.png'}; artifacts: {FOLDER / 'repository'}")
    missed = missed_thresholds(summary)
    for line in missed:
        console.print(f"missed: {line}", style="red", markup=False, soft_wrap=True)
    return not missed


def _train(name: str, console: Console) -> RunConfig:
    config = load_config(find_config(name), [f"run.dir={FOLDER / name}", f"run.workers={WORKERS}"])
    with ProgressBar(config.run.total_images, console) as bar:
        zorse.train(config, show=bar.show)
    return config


def _export(digits: RunConfig, stripes: RunConfig) -> tuple[list[Path], Path]:
    """Export both runs. Returns the three artifacts, and one of the digits generator before training."""
    repository = str(FOLDER / "repository")
    artifacts = [Path(artifact) for run in (digits, stripes) for artifact in zorse.export(run.run.dir, repository)]
    first_snapshot = f"{digits.run.dir}/snapshots/{0:010d}"
    return artifacts, Path(zorse.export(first_snapshot, str(FOLDER / "untrained"))[0])


def _query_server(stripes: RunConfig) -> dict[str, Any]:
    """Generate and translate over HTTP, write the images to `runs/demo/answers`, and return the request counts."""
    with _server() as client:
        counter = RequestCounter()
        black = np.zeros((DIGITS_PER_REQUEST, *DIGIT_SHAPE), dtype=np.uint8)
        for first in range(0, SCORED_DIGITS, DIGITS_PER_REQUEST):
            images = counter.call(black, client.generate, "digits", DIGITS_PER_REQUEST, 0, first)
            _write_images(FOLDER / "answers" / "digits", images, first)
        write_held_out(stripes, FOLDER / "pairs", SCORED_PAIRS + FITTED_PAIRS)
        for domain, direction, reverse in (("A", "AtoB", "BtoA"), ("B", "BtoA", "AtoB")):
            _move_fitting_pairs(domain)
            sources = np.stack(list(read_images(str(FOLDER / "pairs" / domain)).values()))
            translated = counter.translate(client, f"stripes-{direction}", sources)
            reconstructed = counter.translate(client, f"stripes-{reverse}", translated)
            _write_images(FOLDER / "answers" / direction, translated)
            _write_images(FOLDER / "answers" / f"{direction}-back", reconstructed)
    return {"requests": counter.requests, "errors": counter.errors, "first_error": counter.first_error}


def _move_fitting_pairs(domain: str) -> None:
    """Move the images on which the affine baseline is fitted to `runs/demo/fit`, so that they are not scored."""
    folder = FOLDER / "fit" / domain
    folder.mkdir(parents=True)
    for path in sorted((FOLDER / "pairs" / domain).iterdir())[SCORED_PAIRS:]:
        path.rename(folder / path.name)


class RequestCounter:
    """Sends requests and counts them and their errors.

    A failed request returns black images, so that the others can still be scored.
    """

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.first_error: str | None = None

    def translate(self, client: Client, model: str, images: Images) -> Images:
        """Translate `images`, uint8 [n, h, w, c], with one request each."""
        return np.stack([self.call(np.zeros_like(image), client.translate, model, image) for image in images])

    def call(self, black: Images, request: Callable[P, Images], *args: P.args, **kwargs: P.kwargs) -> Images:
        """Return the images of `request(*args, **kwargs)`, or `black` if the request fails.

        Raises:
            ServingError: more than `MAX_ERRORS` requests have failed.
        """
        self.requests += 1
        try:
            return request(*args, **kwargs)
        except ServingError as error:
            self.errors += 1
            self.first_error = self.first_error or str(error)
            if self.errors > MAX_ERRORS:
                raise
            return black


@contextmanager
def _server() -> Iterator[Client]:
    """Start `zorse serve`, yield a client once the server is ready, and stop the server with SIGTERM afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "zorse", "serve", str(FOLDER / "repository"), "--port", str(port)]
    with (FOLDER / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + START_SECONDS
            while not client.ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StartError(f"the server did not start: see {FOLDER / 'serve.log'}")
                time.sleep(0.3)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _score_digits(untrained: Path) -> dict[str, Any]:
    """Score generated digits: Fréchet distances before and after training, and the shares of the classes."""
    digits = np.stack(list(read_images(str(FOLDER / "answers" / "digits")).values()))
    (FOLDER / "digits.png").write_bytes(grid_png(to_tensor(list(digits[:SHOWN_DIGITS])), columns=8))
    _write_images(FOLDER / "answers" / "digits-untrained", zorse.load(untrained).generate(SCORED_DIGITS, seed=0))
    _write_images(FOLDER / "answers" / "digits-classified", digits[:CLASSIFIED_DIGITS])
    metric = registry.resolve("metric", {"type": "digits_frechet"})
    names = ("digits", "digits-untrained", "digits-classified")
    trained, untrained_scores, classified = (evaluate(str(FOLDER / "answers" / name), metric) for name in names)
    return {
        "fd_untrained": untrained_scores["frechet_distance"],
        "fd_trained": trained["frechet_distance"],
        "fd_real_split": trained["frechet_distance_real_split"],
        "classes_covered": classified["classes_covered"],
        "class_shares": [classified[f"class_share_{digit}"] for digit in range(CLASSES)],
        "mean_confidence": classified["mean_confidence"],
    }


def _score_stripes() -> dict[str, Any]:
    """Score both translators by the L1 distance to the true counterpart, and the L1 error of the cycle."""
    scores: dict[str, Any] = {}
    columns, cycle_errors = [], []
    for domain, other, direction in (("A", "B", "AtoB"), ("B", "A", "BtoA")):
        keys = {"source": domain, "truth": other}
        folders = {key: str(FOLDER / "pairs" / name) for key, name in keys.items()}
        folders |= {f"fit_{key}": str(FOLDER / "fit" / name) for key, name in keys.items()}
        metric = registry.resolve("metric", {"type": "paired_l1", **folders})
        scores[direction] = evaluate(str(FOLDER / "answers" / direction), metric)
        image_folders = (
            FOLDER / "pairs" / domain,
            FOLDER / "answers" / direction,
            FOLDER / "answers" / f"{direction}-back",
        )
        source, translated, reconstructed = (to_tensor(list(read_images(str(path)).values())) for path in image_folders)
        columns += [source, translated, reconstructed]
        cycle_errors.append(float((source - reconstructed).abs().mean()))
    shown = torch.stack([column[:SHOWN_PAIRS] for column in columns], dim=1).flatten(0, 1)
    (FOLDER / "stripes.png").write_bytes(grid_png(shown, columns=len(columns)))
    return scores | {"cycle_l1": sum(cycle_errors) / len(cycle_errors)}


def _write_images(folder: Path, images: Images, first: int = 0) -> None:
    for index, image in enumerate(images, start=first):
        write_image(folder / f"{index:05d}.png", image)
