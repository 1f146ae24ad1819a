"""Measures how long images take to become files, and how large these are, by zorse and by Pillow in turn.

    python -m benchmarks.png horse2zebra.zip digits/ …

Of each folder or zip it takes some images, at their size and scaled to 32 and 128 px. Times are CPU time of one core,
so that other processes have little influence; the fastest of several rounds counts. Writes
`benchmarks/results/png.json`.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from benchmarks.report import write_report
from zorse_common.files import ImageFiles, evenly_spaced
from zorse_common.image_writer import encode
from zorse_common.images import Pixels, decode_image, to_array

IMAGES, ROUNDS = 8, 7
SIZES = (None, 32, 128)
"""Sides in pixels; None is the image's own size."""
WRITERS: dict[str, Callable[[Pixels], bytes]] = {
    "zorse PNG": encode,
    "Pillow PNG, level 1": lambda image: _pillow(image, 1),
    "Pillow PNG, level 6": lambda image: _pillow(image, 6),
    "zorse WebP": lambda image: encode(image, "webp"),
    "zorse JPEG": lambda image: encode(image, "jpeg"),
}


def main(places: Sequence[str]) -> None:
    """Measure the images of each place and write the result."""
    rows = [row for place in places for size in SIZES for row in _measure(place, size)]
    for row in rows:
        print(*row.values())  # noqa: T201
    write_report("png", {"rows": rows})


def _measure(place: str, size: int | None) -> list[dict[str, object]]:
    files = ImageFiles(place)
    pictures = [decode_image(files.read(name), 3) for name in evenly_spaced(files.names, IMAGES)]
    images = [to_array(picture if size is None else picture.resize((size, size))) for picture in pictures]
    seconds = dict.fromkeys(WRITERS, np.inf)
    for _ in range(ROUNDS):
        for name, write in WRITERS.items():
            began = time.process_time()
            for image in images:
                write(image)
            seconds[name] = min(seconds[name], time.process_time() - began)
    return [
        {
            "images": Path(place).stem,
            "width": images[0].shape[1],
            "writer": name,
            "microseconds": round(1e6 * seconds[name] / len(images), 1),
            "bytes": round(float(np.mean([len(write(image)) for image in images]))),
        }
        for name, write in WRITERS.items()
    ]


def _pillow(image: Pixels, level: int) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "PNG", compress_level=level)
    return stream.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
