"""Measures batch jobs against a bare program that writes the same files, and a plain Ray Data pipeline.

    python -m benchmarks.batch [IMAGES]

IMAGES (default 240,000) images of a DCGAN for 32 px go to WebDataset shards: by `zorse.batch`; by one process for each
core, which computes, encodes and writes the same shards in a loop; and by Ray Data alone (`range`, `map_batches`,
`write_webdataset`). `seconds` are those of the whole job, start and end included. `images_per_second` is the steady
speed, between the first and the last shard to appear. Writes `benchmarks/results/batch.json`.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic_core import to_json

from benchmarks.peers.models import DCGAN, export_models
from benchmarks.report import write_report
from serving.answers import Origin
from serving.artifacts import load
from serving.batch import job
from serving.batch.job import JobOptions
from serving.batch.output import SHARDS
from serving.batch.plan import rows_per_run, shard_length
from serving.engine import OrtEngine, cpu_cores
from serving.feeds import latents
from zorse_common.image_writer import encode

IMAGES, SEED = 240_000, 3
_QUIET: Callable[[str], None] = [].append


def main() -> None:
    """Measure and write the result."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        model = str(export_models(Path(folder) / "repository") / DCGAN)
        rows = {
            name: _measure(Path(folder) / name, run, model, images)
            for name, run in (("bare", _bare), ("zorse", _zorse), ("ray_data", _ray_data))
        }
        shards = {name: _contents(Path(folder) / name) for name in ("bare", "zorse")}
        start = time.perf_counter()
        _zorse(model, Path(folder) / "zorse", images)
        again = time.perf_counter() - start
    steady = rows["zorse"]["images_per_second"] / rows["bare"]["images_per_second"]
    write_report(
        "batch",
        {
            "images": images,
            "rows": rows,
            "equal_bytes": shards["bare"] == shards["zorse"],
            "steady_ratio_to_bare": steady,
            "seconds_of_a_rerun": again,
        },
    )


def _measure(output: Path, run: Callable[[str, Path, int], None], model: str, images: int) -> dict[str, float]:
    """Return the seconds of a job, its steady speed, and its largest memory, all processes together."""
    peak, is_done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.5):
            peak = max(peak, _memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        run(model, output, images)
    finally:
        seconds = time.perf_counter() - start
        is_done.set()
        watcher.join()
    times = sorted(path.stat().st_mtime for path in (output / SHARDS).iterdir())
    steady = (images - images / len(times)) / (times[-1] - times[0])
    return {"seconds": seconds, "images_per_second": steady, "shards": len(times), "peak_mib": peak}


def _memory_mib() -> float:
    """Return the proportional memory (PSS) of this process and those that it started."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def _contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / SHARDS).iterdir()}


def _zorse(model: str, output: Path, images: int) -> None:
    job.generate(model, str(output), images, JobOptions(device="cpu"), _QUIET, seed=SEED)


def _bare(model: str, output: Path, images: int) -> None:
    """Write the shards with one process for each core, which take turns."""
    (output / SHARDS).mkdir(parents=True)
    count = cpu_cores()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_bare_part, args=(model, output, images, i, count)) for i in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _bare_part(model: str, output: Path, images: int, part: int, parts: int) -> None:
    artifact = load(model)
    manifest = artifact.manifest
    assert manifest.interface.latent is not None
    engine, batch = OrtEngine(artifact.model, "cpu", 1), rows_per_run([manifest])
    length, origin = shard_length([manifest], images, "webdataset"), Origin.of(manifest).facts
    for shard in range(part, -(-images // length), parts):
        stream = io.BytesIO()
        numbers = range(shard * length, min((shard + 1) * length, images))
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for start in range(numbers.start, numbers.stop, batch):
                rows = range(start, min(start + batch, numbers.stop))
                feeds = {"latent": latents(SEED, rows, manifest.interface.latent.dim)}
                for number, image in zip(rows, engine.run(feeds)["image"], strict=True):
                    facts = to_json({**origin, "seed": SEED, "first": number, "n": 1}).decode()
                    content = encode(image, "png", facts)
                    info = tarfile.TarInfo(f"{SEED}_{number:06d}.png")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        path = output / SHARDS / f"{shard:06d}.tar"
        with path.with_suffix(".part").open("wb") as file:
            file.write(stream.getvalue())
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".part").replace(path)


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
        rows.write_webdataset(str(output / SHARDS), encoder=None)


if __name__ == "__main__":
    main()
