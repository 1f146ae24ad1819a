"""`zorse latent project`: compresses images to latents of a run's generator, and reconstructs them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zorse_common.tables import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

    from trainer.models.base import Generator
    from trainer.projection import Projections, ProjectionSettings

    Images = NDArray[np.uint8]

_COLUMNS, _GAP, _WHITE = 10, 2, 255
_SHOWN_SIZE = 64
"""Smaller images are enlarged in the strip by a whole factor, up to about this many pixels a side."""


def register_latent(group: typer.Typer) -> None:
    """Add `project` to `group`, the commands of `zorse latent`."""
    group.command()(project)


def project(
    run: Annotated[str, typer.Argument(help="A run or one of its snapshots: a folder or URI.", show_default=False)],
    images: Annotated[list[str], typer.Argument(help="Image files, and folders or zips of them.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The strip to write, a .png file; the latents go to an .npz file beside it.")
    ],
    starts: Annotated[int, typer.Option(min=1, help="Searches for each image, from different latents.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the latents from which the searches start.")] = 0,
    label: Annotated[
        str | None, typer.Option(help="The class of all images of a conditional generator: name or index.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the latents whose images are nearest to other images.

    An image of another size is resized on its shorter side and cropped at its centre. The strip shows each image above
    its reconstruction. The .npz file holds the latents in the array `latent`, one row for each image, and for a
    conditional generator the labels in `label`: these are the inputs of the exported model.
    """
    import numpy as np

    from trainer.projection import ProjectionSettings

    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"{out} does not end in .png", param_hint="--out")
    generator, names = _generator(run)
    targets = dict(_targets(images, generator))
    pixels = np.stack(list(targets.values()))
    labels = None if label is None else np.full(len(pixels), _class_index(label, names), dtype=np.int64)
    projections = _search(generator, pixels, labels, ProjectionSettings(starts, steps, seed))
    npz = out.with_suffix(".npz")
    _write(out, npz, pixels, projections, labels)
    lengths = np.linalg.norm(projections.latents, axis=1) / np.sqrt(generator.latent_dim)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"image": name, "psnr": float(psnr) if np.isfinite(psnr) else None, "length": float(length)}
            for name, psnr, length in zip(targets, projections.psnr, lengths, strict=True)
        ]
        print_json({"images": rows, "strip": str(out), "latents": str(npz)})
        return
    quality = [f"{psnr:.2f}" if np.isfinite(psnr) else "identical" for psnr in projections.psnr]
    table = list(zip(targets, quality, (f"{length:.2f}" for length in lengths), strict=True))
    print_table(("image", "PSNR (dB)", "length of the latent / √dim"), table)
    typer.echo(f"mean PSNR {projections.psnr.mean():.2f} dB; strip in {out}, latents in {npz}")


def _generator(run: str) -> tuple[Generator, list[str]]:
    """Build the generator of the newest snapshot, on the GPU if there is one; return also the names of its classes."""
    import torch
    from torch import nn

    from trainer.errors import SnapshotError
    from trainer.models.base import Generator
    from trainer.snapshot import read_snapshot

    snapshot = read_snapshot(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, entry in snapshot.networks.items():
        network: nn.Module = snapshot.build(name).to(device)
        if isinstance(network, Generator):
            return network, entry.labels or []
    raise SnapshotError(
        f"{run} has no generator with latents: {', '.join(snapshot.networks)} translate images. Give a run of a GAN"
    )


def _class_index(label: str, names: list[str]) -> int:
    """Return the index of a class, which `label` gives by one of `names` or as a number.

    Raises:
        trainer.errors.ConfigError: `label` is neither.
    """
    from trainer.errors import ConfigError
    from zorse_common.errors import nearest_hint

    if label in names:
        return names.index(label)
    if not label.isdecimal() or len(label) > 9:
        raise ConfigError(f"there is no class {label!r}{nearest_hint(label, names)}: give the name or index of a class")
    return int(label)


def _targets(places: list[str], generator: Generator) -> Iterator[tuple[str, Images]]:
    """Yield the name and the pixels of each image, uint8 [size, size, channels], as the generator makes them."""
    from trainer.data.resized_files import crop_centre
    from trainer.errors import DataError
    from zorse_common.images import MODES, to_array

    if generator.channels not in MODES:
        raise DataError(f"the generator makes images of {generator.channels} channels, which image files cannot hold")
    for place in places:
        for name, image in _decoded(place, generator.channels):
            yield name, to_array(crop_centre(image, generator.size))


def _decoded(place: str, channels: int) -> Iterator[tuple[str, Pillow.Image]]:
    """Yield the name and the image of an image file, or of each image in a folder or zip.

    Raises:
        trainer.errors.DataError: there are no images, or one cannot be read.
    """
    from trainer.errors import DataError
    from zorse_common.errors import printable
    from zorse_common.files import ImageFiles
    from zorse_common.images import ImageError, decode_image
    from zorse_common.storage import Storage

    storage = Storage(place)
    kind = storage.kind()
    if kind == "nothing":
        raise DataError(f"there is nothing at {place}: give image files, or folders or zips of them")
    if kind == "file" and not place.lower().endswith(".zip"):
        try:
            yield place, decode_image(storage.parent.read(storage.name), channels)
        except ImageError as error:
            raise DataError(f"{printable(place)}: {error}") from error
        return
    files = ImageFiles(place)
    if not files.names:
        raise DataError(f"{place} holds no images")
    for name in files.names:
        image = files.open(name, channels)
        if image is None:
            raise DataError(f"{place}: {printable(name)} cannot be read ({files.unreadable[name]})")
        yield f"{place.rstrip('/')}/{name}", image


def _search(
    generator: Generator, images: Images, labels: NDArray[np.int64] | None, settings: ProjectionSettings
) -> Projections:
    """Project with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    from trainer import projection

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"projecting {len(images)} images")
        show = partial(_show, bar, task)
        return projection.project(generator, images, settings, labels=labels, progress=show)


def _show(bar: Any, task: Any, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _write(
    strip: Path, latents: Path, images: Images, projections: Projections, labels: NDArray[np.int64] | None
) -> None:
    import numpy as np

    from trainer.errors import DataError
    from zorse_common.files import write_image

    write_image(strip, _comparison(images, projections.images))
    try:
        if labels is None:
            np.savez(latents, latent=projections.latents)
        else:
            np.savez(latents, latent=projections.latents, label=labels)
    except OSError as error:
        raise DataError(f"{latents} cannot be written ({error.strerror or error})") from error


def _comparison(above: Images, below: Images) -> Images:
    """Draw images, uint8 [n, s, s, c], over others, ten in a row, on white: one image uint8 [height, width, c]."""
    import numpy as np

    count, size, _, channels = above.shape
    factor = max(1, _SHOWN_SIZE // size)
    side, columns, rows = factor * size, min(count, _COLUMNS), 2 * -(-count // _COLUMNS)
    canvas = np.full((rows * (side + _GAP) - _GAP, columns * (side + _GAP) - _GAP, channels), _WHITE, dtype=np.uint8)
    for index in range(count):
        for row, image in ((0, above[index]), (1, below[index])):
            top = (2 * (index // _COLUMNS) + row) * (side + _GAP)
            left = index % _COLUMNS * (side + _GAP)
            canvas[top : top + side, left : left + side] = image.repeat(factor, 0).repeat(factor, 1)
    return canvas
