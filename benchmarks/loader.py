"""Measures how many training images per second and core the loader delivers, beside the data path that it replaced.

    python -m benchmarks.loader horse2zebra.zip

It loads 256-px crops from the 256-px JPEGs of the zip, and from 2048-px JPEGs, which it makes from some of them. Both
paths are timed in turn in one run, with one image per domain and step as in CycleGAN. The rate per core divides by
seconds of CPU time, so that other processes on the machine have little influence. Writes
`benchmarks/results/loader.json`.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from benchmarks.report import write_report
from trainer.data.base import Image
from trainer.data.sampler import sample_index
from trainer.data.unpaired import Unpaired
from trainer.loader import AHEAD, Loader, Worker, draw_nothing, usable_cpus
from trainer.run_config import BatchSection
from zorse_common.files import ImageFiles
from zorse_common.images import to_array
from zorse_common.random import counter_rng
from zorse_common.splits import split_folders

DOMAINS = ("A", "B")
SIZE, LARGE_SIZE, LARGE_IMAGES = 256, 2048, 40
ROUNDS, SEED = 3, 0
EPOCHS = ("first epoch", "second epoch")


def main(root: str) -> None:
    """Measure both sets of images and write the result. `root` is the zip or folder of an unpaired dataset."""
    with tempfile.TemporaryDirectory() as folder:
        _write_large_images(root, Path(folder))
        settings = {
            "256 px from 256-px JPEGs": _measure(root),
            "256 px from 2048-px JPEGs": _measure(folder),
        }
    write_report("loader", {"loader_threads": usable_cpus(), "settings": settings})


def _measure(root: str) -> dict[str, Any]:
    """Time both paths over two epochs, `ROUNDS` times in turn; the round with the least CPU time counts."""
    config = Unpaired.Config(root=root, size=SIZE)
    count = max(Unpaired(config, seed=SEED).count(domain) for domain in DOMAINS)
    seconds: dict[str, list[list[tuple[float, float]]]] = {"before": [], "now": []}
    for _ in range(ROUNDS):
        seconds["before"].append(_epochs(OldPath(config).steps(), count))
        dataset = Unpaired(config, seed=SEED)
        loader = Loader(dataset, draw_nothing, BatchSection(global_size=1), Worker(), device=torch.device("cpu"))
        seconds["now"].append(_epochs(loader.steps(0), count))
    images = len(DOMAINS) * count
    result: dict[str, Any] = {"images_per_epoch": images}
    for path, rounds in seconds.items():
        result[path] = {}
        for name, times in zip(EPOCHS, zip(*rounds, strict=True), strict=True):
            cpu, wall = min(times)
            result[path][name] = {"images_per_second_and_core": images / cpu, "images_per_second": images / wall}
    result["ratio"] = {
        name: result["now"][name]["images_per_second_and_core"] / result["before"][name]["images_per_second_and_core"]
        for name in EPOCHS
    }
    return result


def _epochs(steps: Generator[Any, None, None], count: int) -> list[tuple[float, float]]:
    """Take two epochs of `count` steps and return the CPU and wall seconds of each."""
    seconds = []
    with contextlib.closing(steps):
        for _ in EPOCHS:
            cpu, wall = time.process_time(), time.perf_counter()
            deque(itertools.islice(steps, count), maxlen=0)
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


class OldPath:
    """The replaced data path: each visit decodes and resizes the whole image, and steps are decoded one by one."""

    def __init__(self, config: Unpaired.Config) -> None:
        self._files, self._load_size = ImageFiles(config.root), round(SIZE * 286 / 256)
        self._names = split_folders(config.root, self._files.names, tuple(f"train{domain}" for domain in DOMAINS))

    def steps(self) -> Generator[dict[str, Tensor], None, None]:
        """Yield the images of each step by domain: float32 [1, 3, SIZE, SIZE] in -1..1."""
        with (
            ThreadPoolExecutor(usable_cpus(), "decoder") as decoders,
            ThreadPoolExecutor(1, "assembler") as assembler,
        ):
            queue: deque[Future[dict[str, Tensor]]] = deque()
            try:
                for number in itertools.count():
                    queue.append(assembler.submit(self._step, number, decoders))
                    if len(queue) == AHEAD:
                        yield queue.popleft().result()
            finally:
                for future in queue:
                    future.cancel()

    def _step(self, number: int, decoders: Executor) -> dict[str, Tensor]:
        decoding = {domain: decoders.map(partial(self._image, domain), [number]) for domain in DOMAINS}
        return {domain: _to_float_tensor(list(images)) for domain, images in decoding.items()}

    def _image(self, domain: str, number: int) -> Image:
        names = self._names[f"train{domain}"]
        image = self._files.open(names[sample_index(SEED, f"order/{domain}", number, len(names))], 3)
        assert image is not None
        draw = counter_rng(SEED, f"augment/{domain}", number)
        top, left = draw.integers(0, self._load_size - SIZE, size=2, endpoint=True).tolist()
        resized = image.resize((self._load_size, self._load_size), Pillow.Resampling.BICUBIC)
        cropped = resized.crop((left, top, left + SIZE, top + SIZE))
        mirrored = cropped.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else cropped
        return to_array(mirrored)


def _to_float_tensor(images: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def _write_large_images(root: str, folder: Path) -> None:
    """Write the first `LARGE_IMAGES` images of each domain, enlarged to 2048 px, as JPEG files."""
    files = ImageFiles(root)
    folders = split_folders(root, files.names, tuple(f"train{domain}" for domain in DOMAINS))
    for train, names in folders.items():
        (folder / train).mkdir()
        for number, name in enumerate(names[:LARGE_IMAGES]):
            image = files.open(name, 3)
            assert image is not None
            enlarged = image.resize((LARGE_SIZE, LARGE_SIZE), Pillow.Resampling.BICUBIC)
            enlarged.save(folder / train / f"{number:02d}.jpg", quality=92)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
