"""`zorse demo`: trains, exports, serves and asks two small models, through what any user can call."""

from __future__ import annotations

import json
import shutil
import socket
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
from trainer import registry
from trainer.cluster import cluster
from trainer.config_files import find_config, load_config
from trainer.data.digits import CLASSES
from trainer.data.tensors import to_tensor
from trainer.evaluate import evaluate, write_held_out
from trainer.hooks.samples import grid_png
from trainer.progress import ProgressBar
from trainer.run_config import RunConfig
from zorse.bars import missed_bars
from zorse_common.files import read_images, write_image

FOLDER = Path("runs/demo")
WORKERS = 2
SCORED_DIGITS, COUNTED_DIGITS, PER_REQUEST = 2500, 500, 100
SCORED_PAIRS, FITTED_PAIRS, SHOWN = 200, 200, 8
DIGIT_SHAPE = (32, 32, 1)
START_SECONDS, STOP_SECONDS = 120, 60
MOST_ERRORS = 10
Images = NDArray[np.uint8]
T = TypeVar("T")
P = ParamSpec("P")


def run() -> bool:
    """Leave pictures, artifacts and `summary.json` in `runs/demo`; True when the figures clear every bar.

    Raises:
        TrainerError, ExportError, ServingError: a stage failed.
    """
    console = Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        console.rule(stage)
        start = time.monotonic()
        result = work()
        seconds[stage] = round(time.monotonic() - start, 1)
        return result

    start = time.monotonic()
    with cluster(WORKERS):
        digits = timed("train digits", lambda: _train("digits", console))
        stripes = timed("train stripes", lambda: _train("stripes", console))
    artifacts, untrained = timed("export", lambda: _export(digits, stripes))
    answers = timed("serve and ask", lambda: _ask(stripes))
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
        "serve": answers,
        "train": {"workers": digits.run.workers, "engine": "deepspeed"},
        "seconds": seconds,
    }
    (FOLDER / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.rule()
    console.print_json(data=summary)
    console.print(f"pictures: {FOLDER / 'digits.png'}, {FOLDER / 'stripes.png'}; artifacts: {FOLDER / 'repository'}")
    missed = missed_bars(summary)
    for line in missed:
        console.print(f"missed: {line}", style="red", markup=False, soft_wrap=True)
    return not missed


def _train(name: str, console: Console) -> RunConfig:
    config = load_config(find_config(name), [f"run.dir={FOLDER / name}", f"run.workers={WORKERS}"])
    with ProgressBar(config.run.total_images, console) as bar:
        zorse.train(config, show=bar.show)
    return config


def _export(digits: RunConfig, stripes: RunConfig) -> tuple[list[Path], Path]:
    """The three artifacts, and one of the generator before it was trained."""
    repository = str(FOLDER / "repository")
    artifacts = [Path(place) for run in (digits, stripes) for place in zorse.export(run.run.dir, repository)]
    start = f"{digits.run.dir}/snapshots/{0:010d}"
    return artifacts, Path(zorse.export(start, str(FOLDER / "untrained"))[0])


def _ask(stripes: RunConfig) -> dict[str, Any]:
    """Generate and translate over HTTP; the answers go to folders."""
    with _server() as client:
        asked = Asked()
        black = np.zeros((PER_REQUEST, *DIGIT_SHAPE), dtype=np.uint8)
        for first in range(0, SCORED_DIGITS, PER_REQUEST):
            made = asked.call(black, client.generate, "digits", PER_REQUEST, 0, first)
            _write(FOLDER / "answers" / "digits", made, first)
        write_held_out(stripes, FOLDER / "pairs", SCORED_PAIRS + FITTED_PAIRS)
        for domain, there, back in (("A", "AtoB", "BtoA"), ("B", "BtoA", "AtoB")):
            _set_apart(domain)
            sources = np.stack(list(read_images(str(FOLDER / "pairs" / domain)).values()))
            translated = asked.translate(client, f"stripes-{there}", sources)
            returned = asked.translate(client, f"stripes-{back}", translated)
            _write(FOLDER / "answers" / there, translated)
            _write(FOLDER / "answers" / f"{there}-back", returned)
    return {"requests": asked.requests, "errors": asked.errors, "first_error": asked.first_error}


def _set_apart(domain: str) -> None:
    """Move the pairs on which the affine map is fitted out of those that are scored."""
    fit = FOLDER / "fit" / domain
    fit.mkdir(parents=True)
    for path in sorted((FOLDER / "pairs" / domain).iterdir())[SCORED_PAIRS:]:
        path.rename(fit / path.name)


class Asked:
    """Counts requests and failed ones, in whose place black images stand so that the rest can be scored."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.first_error: str | None = None

    def translate(self, client: Client, model: str, images: Images) -> Images:
        return np.stack([self.call(np.zeros_like(image), client.translate, model, image) for image in images])

    def call(self, black: Images, request: Callable[P, Images], *args: P.args, **kwargs: P.kwargs) -> Images:
        self.requests += 1
        try:
            return request(*args, **kwargs)
        except ServingError as error:
            self.errors += 1
            self.first_error = self.first_error or str(error)
            if self.errors > MOST_ERRORS:
                raise
            return black


@contextmanager
def _server() -> Iterator[Client]:
    """`zorse serve` in a process of its own, ready to answer; ended by SIGTERM afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "zorse", "serve", str(FOLDER / "repository"), "--port", str(port)]
    with (FOLDER / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            limit = time.monotonic() + START_SECONDS
            while not client.ready():
                if process.poll() is not None or time.monotonic() > limit:
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
    made = np.stack(list(read_images(str(FOLDER / "answers" / "digits")).values()))
    (FOLDER / "digits.png").write_bytes(grid_png(to_tensor(list(made[:64])), columns=8))
    _write(FOLDER / "answers" / "digits-untrained", zorse.load(untrained).generate(SCORED_DIGITS, seed=0))
    _write(FOLDER / "answers" / "digits-counted", made[:COUNTED_DIGITS])
    metric = registry.resolve("metric", {"type": "digits_frechet"})
    names = ("digits", "digits-untrained", "digits-counted")
    trained, before, counted = (evaluate(str(FOLDER / "answers" / name), metric) for name in names)
    return {
        "fd_untrained": before["frechet_distance"],
        "fd_trained": trained["frechet_distance"],
        "fd_real_split": trained["frechet_distance_real_split"],
        "classes_covered": counted["classes_covered"],
        "class_shares": [counted[f"class_share_{digit}"] for digit in range(CLASSES)],
        "mean_confidence": counted["mean_confidence"],
    }


def _score_stripes() -> dict[str, Any]:
    scores: dict[str, Any] = {}
    columns, distances = [], []
    for domain, other, direction in (("A", "B", "AtoB"), ("B", "A", "BtoA")):
        keys = {"source": domain, "truth": other}
        folders = {key: str(FOLDER / "pairs" / name) for key, name in keys.items()}
        folders |= {f"fit_{key}": str(FOLDER / "fit" / name) for key, name in keys.items()}
        metric = registry.resolve("metric", {"type": "paired_l1", **folders})
        scores[direction] = evaluate(str(FOLDER / "answers" / direction), metric)
        places = (FOLDER / "pairs" / domain, FOLDER / "answers" / direction, FOLDER / "answers" / f"{direction}-back")
        trio = [to_tensor(list(read_images(str(place)).values())) for place in places]
        columns += trio
        distances.append(float((trio[0] - trio[2]).abs().mean()))
    shown = torch.stack([column[:SHOWN] for column in columns], dim=1).flatten(0, 1)
    (FOLDER / "stripes.png").write_bytes(grid_png(shown, columns=len(columns)))
    return scores | {"cycle_l1": sum(distances) / len(distances)}


def _write(folder: Path, images: Images, first: int = 0) -> None:
    for index, image in enumerate(images, start=first):
        write_image(folder / f"{index:05d}.png", image)
