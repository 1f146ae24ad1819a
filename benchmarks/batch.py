"""Measures batch jobs against bare programs that write the same files, and against plain Ray Data and Daft.

    python -m benchmarks.batch [--images 240000] [--photographs 2000] [--zip ../shared/data/horse2zebra.zip]

The images of a DCGAN for 32 px go to WebDataset shards: by `zorse.batch`; by one process for each core, which computes,
encodes and writes the same shards in a loop ("bare"); by the same loop as a Daft class with as many processes, in an
environment of its own, which is made on the first run; and by Ray Data alone (`range`, `map_batches`,
`write_webdataset`). Photographs of 128 px are translated by a ResNet-9, by `zorse.batch` and by the best of several
bare programs, which are tried on a few of them first. Without the ZIP of photographs they are noise.

`seconds` are those of the whole job, start and end included. `images_per_second` is the steady speed: the slope of the
line through the images that were there when each shard appeared. `zorse` and `bare` run in turn, twice, and the row is
the faster run. `peak_mib` is the proportional memory of all processes beyond what this one
had before. Writes `benchmarks/results/batch.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.peers.environments import EnvironmentFailedError, environment, versions
from benchmarks.peers.models import DCGAN, RESNET, SIZE, export_models
from benchmarks.peers.shards import Loop, run_loop
from benchmarks.report import write_report
from serving.artifacts import load
from serving.batch import job
from serving.batch.job import JobOptions
from serving.batch.output import MANIFEST, SHARDS
from serving.batch.plan import default_shard_size, rows_per_run
from serving.engine import OrtEngine, cpu_cores
from serving.feeds import latents
from zorse_common.image_writer import encode

SEED, ROUNDS, SMALL = 3, 2, 10
"""`SMALL`: how many times as large as a small job, whose memory is compared, the measured one is."""
TRIED = tuple(itertools.product((1, cpu_cores()), (1, cpu_cores()), (1, 4, 16)))
"""The bare programs that are tried: processes, threads of each, and images that run together."""
TRIED_PHOTOGRAPHS = 64
MEMORY_SECONDS = 2.0
"""The time between two readings of the memory, each of which takes about 20 ms of a core."""
_OPTIONS = JobOptions(device="cpu")
_QUIET: Callable[[str], None] = [].append
Row = dict[str, Any]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="Measure batch jobs.")
    parser.add_argument("--images", type=int, default=240_000)
    parser.add_argument("--photographs", type=int, default=2_000)
    parser.add_argument("--zip", type=Path, default=Path("../shared/data/horse2zebra.zip"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = export_models(folder / "repository")
        generated = _measure_generate(str(repository / DCGAN), arguments.images, folder)
        photographs = _write_photographs(arguments.zip, arguments.photographs, folder / "photographs")
        translated = _measure_translate(str(repository / RESNET), photographs, folder)
    write_report("batch", {"generate": generated, "translate": translated})


def _measure_generate(model: str, images: int, folder: Path) -> dict[str, Any]:
    manifest = load(model).manifest
    length = default_shard_size([manifest], images, "webdataset")
    loop = Loop(model, "", images, length, rows_per_run([manifest]), SEED)

    def zorse(output: Path, count: int = images) -> None:
        job.generate(model, str(output), count, _OPTIONS, _QUIET, seed=SEED)

    rows, is_equal = _in_turn(zorse, lambda output: run_loop(_at(loop, output), cpu_cores()), images, folder)
    start = time.perf_counter()
    zorse(folder / "zorse")
    again = time.perf_counter() - start
    rows["zorse_small"] = _measure(folder / "small", lambda output: zorse(output, images // SMALL), images // SMALL)
    rows["daft"] = _measure_daft(loop, folder / "daft")
    rows["ray_data"] = _measure(folder / "ray_data", lambda output: _ray_data(model, output, images), images)
    for name in ("zorse", "bare", "small", "daft", "ray_data"):
        shutil.rmtree(folder / name, ignore_errors=True)
    ratios = {
        "seconds_more_than_bare": round(rows["zorse"]["seconds"] - rows["bare"]["seconds"], 2),
        "memory_over_small_job": round(rows["zorse"]["peak_mib"] / rows["zorse_small"]["peak_mib"], 3),
        "seconds_of_a_rerun": round(again, 2),
    }
    return {"equal_bytes": is_equal, **_steady_ratio(rows), **ratios, "rows": rows}


def _measure_translate(model: str, photographs: Sequence[Path], folder: Path) -> dict[str, Any]:
    count, files = len(photographs), [str(path) for path in photographs]

    def bare(processes: int, threads: int, batch: int, files: Sequence[str]) -> Callable[[Path], None]:
        length = -(-len(files) // (8 * processes))
        loop = Loop(model, "", len(files), length, batch, files=files, threads=threads)
        return lambda output: run_loop(_at(loop, output), processes)

    few = files[:TRIED_PHOTOGRAPHS]
    tried = []
    for number, (processes, threads, batch) in enumerate(TRIED):
        row = _measure(folder / f"tried{number}", bare(processes, threads, batch, few), len(few))
        tried.append({"processes": processes, "threads": threads, "batch": batch, **row})
    best = max(tried, key=lambda row: row["images_per_second"])
    run = bare(best["processes"], best["threads"], best["batch"], files)

    def zorse(output: Path) -> None:
        job.translate(model, str(photographs[0].parent), str(output), _OPTIONS, _QUIET)

    rows, _ = _in_turn(zorse, run, count, folder, rounds=1)
    return {**_steady_ratio(rows), "rows": rows, "tried": tried}


def _in_turn(
    zorse: Callable[[Path], None], bare: Callable[[Path], None], images: int, folder: Path, rounds: int = ROUNDS
) -> tuple[dict[str, Row], bool]:
    """Measure both `rounds` times. Returns the rows with the greater speed, and whether the last shards are equal."""
    every: dict[str, list[Row]] = {"bare": [], "zorse": []}
    for _ in range(rounds):
        for name, run in (("bare", bare), ("zorse", zorse)):
            shutil.rmtree(folder / name, ignore_errors=True)
            every[name].append(_measure(folder / name, run, images))
    rows = {name: max(runs, key=lambda row: row["images_per_second"]) for name, runs in every.items()}
    contents = [{path.name: path.read_bytes() for path in _shards(folder / name)} for name in every]
    return rows, contents[0] == contents[1]


def _steady_ratio(rows: dict[str, Row]) -> dict[str, float]:
    return {"steady_over_bare": round(rows["zorse"]["images_per_second"] / rows["bare"]["images_per_second"], 3)}


def _measure(output: Path, run: Callable[[Path], None], images: int) -> Row:
    """Return the seconds of a job, its steady speed, and its largest memory, all processes together."""
    peak, before, is_done = 0.0, _memory_mib(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(MEMORY_SECONDS):
            peak = max(peak, _memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        run(output)
    finally:
        seconds = time.perf_counter() - start
        is_done.set()
        watcher.join()
    shards = _shards(output)
    row = {"images": images, "seconds": round(seconds, 2), "shards": len(shards), "peak_mib": round(peak - before)}
    row["images_per_second"] = round(_steady(shards, images), 2)
    print(output.name, json.dumps(row), flush=True)  # noqa: T201
    return row


def _steady(shards: Sequence[Path], images: int) -> float:
    """Return the slope of the number of images over the time. A shard has as many of them as it has bytes."""
    files = sorted((path.stat() for path in shards), key=lambda file: file.st_mtime_ns)
    done = np.cumsum([file.st_size for file in files]) * images / sum(file.st_size for file in files)
    times = np.array([file.st_mtime_ns - files[0].st_mtime_ns for file in files]) / 1e9
    return float(np.polyfit(times, done, 1)[0])


def _shards(output: Path) -> list[Path]:
    """Return the shards, which a job of this project has in a folder."""
    return sorted((output / SHARDS if (output / MANIFEST).exists() else output).glob("*.tar"))


def _memory_mib() -> float:
    """Return the proportional memory (PSS) of this process and those that it started."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def _at(loop: Loop, output: Path) -> Loop:
    return dataclasses.replace(loop, output=str(output))


def _measure_daft(loop: Loop, output: Path) -> Row:
    """Measure the loop as a Daft class. If it fails the row says why."""
    try:
        python = environment("daft") / "python"

        def run(output: Path) -> None:
            text = json.dumps(dataclasses.asdict(_at(loop, output)))
            command = [str(python), "-m", "benchmarks.peers.daft_shards", text, str(cpu_cores())]
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])

        return {"versions": versions("daft"), **_measure(output, run, loop.count)}
    except EnvironmentFailedError as error:
        return {"failed": str(error)}
    except subprocess.CalledProcessError as error:
        return {"failed": (error.stderr.strip().splitlines() or [str(error)])[-1]}


class _PlainWorker:
    """The function of the plain pipeline: numbers become encoded images."""

    def __init__(self, model: str) -> None:
        artifact = load(model)
        latent = artifact.manifest.interface.latent
        assert latent is not None
        self._dim, self._engine = latent.dim, OrtEngine(artifact.model, "cpu", 1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(number) for number in batch["id"]]
        images = self._engine.run({"latent": latents(SEED, numbers, self._dim)})["image"]
        return {
            "__key__": [f"{SEED}_{number:06d}" for number in numbers],
            "png": [encode(image) for image in images],
        }


def _ray_data(model: str, output: Path, images: int) -> None:
    """Generate with Ray Data's own reader, batches of 100 and writer."""
    import ray

    from serving.batch.ray_cluster import connected

    with connected(None):
        ray.data.DataContext.get_current().enable_progress_bars = False
        # With whole CPUs the actors would leave none for the reader, which would wait for ever.
        pool = ray.data.ActorPoolStrategy(size=cpu_cores())
        rows = ray.data.range(images).map_batches(
            _PlainWorker, fn_constructor_args=(model,), batch_size=100, compute=pool, num_cpus=0.5
        )
        rows.write_webdataset(str(output), encoder=None)


def _write_photographs(archive: Path, count: int, folder: Path) -> list[Path]:
    """Write `count` JPEG files of `SIZE` px: those in `archive`, again and again, or noise."""
    folder.mkdir()
    pictures: list[Image.Image] = []
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".png")))[:count]
            for name in names:
                image = Image.open(io.BytesIO(file.read(name))).convert("RGB")
                pictures.append(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    else:
        draw = np.random.default_rng(0)
        pictures = [Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8))]
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    for file, picture in zip(files, itertools.cycle(pictures), strict=False):
        picture.save(file, quality=90)
    return files


if __name__ == "__main__":
    main()
