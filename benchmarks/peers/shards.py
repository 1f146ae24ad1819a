"""Makes the shards of a batch job in a plain loop: a tar of PNG files that a model generated or translated.

The loop computes, encodes and writes, one after the other. It needs neither Ray nor the batch jobs of this project.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from serving.answers import Origin
from serving.artifacts import load
from serving.engine import OrtEngine
from serving.feeds import latents
from zorse_common.image_writer import encode
from zorse_common.images import decode_image


@dataclass(frozen=True)
class Loop:
    """What a loop makes: shards of `length` images each, `count` images in all, in the folder `output`.

    The images are those of `seed`, or the translated `files`, which are of one size. `batch` images run together.
    """

    model: str
    output: str
    count: int
    length: int
    batch: int
    seed: int = 0
    files: Sequence[str] = ()
    threads: int = 1

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.length)


class Shards:
    """Holds the model of a loop."""

    def __init__(self, loop: Loop) -> None:
        artifact = load(loop.model)
        self._loop, self._engine = loop, OrtEngine(artifact.model, "cpu", loop.threads)
        self._latent, self._facts = artifact.manifest.interface.latent, Origin.of(artifact.manifest).facts

    def make(self, shard: int) -> None:
        """Write a shard: a file that is forced to the disk and then renamed."""
        first = shard * self._loop.length
        path = Path(self._loop.output) / f"{shard:06d}.tar"
        with path.with_suffix(".part").open("wb") as file:
            file.write(_tar(self._images(range(first, min(first + self._loop.length, self._loop.count)))))
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".part").replace(path)

    def _images(self, numbers: range) -> Iterator[tuple[str, bytes]]:
        for start in range(0, len(numbers), self._loop.batch):
            rows = numbers[start : start + self._loop.batch]
            for number, image in zip(rows, self._engine.run(self._feeds(rows))["image"], strict=True):
                if self._loop.files:
                    name, facts = Path(self._loop.files[number]).stem, self._facts
                else:
                    name = f"{self._loop.seed}_{number:06d}"
                    facts = {**self._facts, "seed": self._loop.seed, "first": number, "n": 1}
                yield f"{name}.png", encode(image, "png", to_json(facts).decode())

    def _feeds(self, rows: range) -> dict[str, NDArray[Any]]:
        if self._latent is not None:
            return {"latent": latents(self._loop.seed, rows, self._latent.dim)}
        return {"source": np.stack([decode_image(Path(self._loop.files[number]).read_bytes(), 3) for number in rows])}


def run_loop(loop: Loop, processes: int) -> None:
    """Make all shards with a number of processes, which take turns."""
    Path(loop.output).mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_make_part, args=(loop, part, processes)) for part in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not any(worker.exitcode for worker in workers), "a process of the loop failed"


def _make_part(loop: Loop, part: int, parts: int) -> None:
    shards = Shards(loop)
    for shard in range(part, loop.shards, parts):
        shards.make(shard)


def _tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
