"""Real images for proofs and calibration, from a folder or a zip on a disk or at a URI."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.errors import ImageSetError
from export.interface import Interface, SizeLimits, TensorSpec
from export.targets.base import Target
from zorse_common.errors import one_line, printable
from zorse_common.files import FileSet, ImageFiles, evenly_spaced, is_hidden
from zorse_common.image_facts import collection_facts, unused_facts
from zorse_common.images import MODES, to_array
from zorse_common.splits import split_folders

RANGE_KEY = "--images-range"


@dataclass(frozen=True)
class ImagePlace:
    """Where real images are: a folder or zip, at a path or URI.

    Of a place with folders of the `domain` (for A: "testA", "A" or "trainA", at the root or below one wrapping folder)
    only the images of the first of those count. `value_range` is that of files of more than 8 bits, see
    `zorse_common.images.decode_image`.
    """

    place: str
    domain: str = ""
    value_range: tuple[float, float] | None = None


def real_images(
    name: str, interface: Interface, size: int, target: Target, place: ImagePlace | None, report: Callable[[str], None]
) -> list[NDArray[Any]]:
    """Return the real images for one model, [height, width, channels] of legal sizes; none for a generator.

    `name` is the model's for messages, and `size` the length in pixels that the longer side of each image gets.

    Raises:
        ImageSetError: images are given for a generator, missing for a calibrated target, or useless for a proof.
    """
    if interface.size is None:
        if place is not None:
            raise ImageSetError(f"{name} is a generator and takes no images: leave --images out")
        return []
    if place is None:
        if target.calibrated:
            raise ImageSetError(f"{name}: {target.name} is calibrated on real images: give some with --images")
        return []
    images = load_images(place, interface.inputs[0], interface.size, size, report=report)
    if all(image.min() == image.max() for image in images):
        raise ImageSetError(
            f"{place.place}: each of the {len(images)} images is of one value, which proves nothing: give photographs, "
            "and with more than 8 bits the right --images-range"
        )
    return images


def load_images(
    where: ImagePlace,
    spec: TensorSpec,
    limits: SizeLimits,
    size: int,
    count: int = 8,
    report: Callable[[str], None] = lambda fact: None,
) -> list[NDArray[Any]]:
    """Return up to `count` of the images at `where`, evenly spaced by name, each [height, width, channels].

    If `spec` is uint8 of 1, 3 or 4 channels, they are image files. Each is scaled until its longer side is `size`
    pixels, then to the nearest legal height and width above. Otherwise they are NumPy files (`.npy`, of the spec's
    dtype and value range), cut to a legal size from the top left. `report` gets facts about the images, one a line.

    Raises:
        FilesError: the place is missing or damaged, or the files' values use too little of the value range.
        ImageSetError: there are no images, or one cannot be read, decoded or used.
    """
    channels = int(spec.shape[-1])
    if spec.dtype != "uint8" or channels not in MODES:
        files = FileSet(where.place)
        arrays = [name for name in files.sizes if name.lower().endswith(".npy") and not is_hidden(name)]
        chosen = evenly_spaced(_of_domain(where, arrays, ".npy"), count)
        return [_array(f"{where.place}/{name}", files.read(name), spec, limits) for name in chosen]
    images = ImageFiles(where.place, value_range=where.value_range)
    names = _of_domain(where, images.names, "image")
    unused = unused_facts(images, names, "of another domain or split")
    for fact in (*collection_facts(images, names, where.place, RANGE_KEY), *unused):
        report(fact)
    return [_decode(images, name, channels, limits, size) for name in evenly_spaced(names, count)]


def _of_domain(where: ImagePlace, names: Sequence[str], kind: str) -> Sequence[str]:
    if not names:
        raise ImageSetError(f"{where.place} holds no {kind} files")
    if not where.domain:
        return names
    folders = {domain: (f"test{domain}", domain, f"train{domain}") for domain in sorted({"A", "B", where.domain})}
    by_folder = split_folders(where.place, names, tuple(folder for group in folders.values() for folder in group))
    own = next((by_folder[folder] for folder in folders[where.domain] if by_folder[folder]), None)
    if own is None and any(by_folder.values()):
        raise ImageSetError(
            f"{where.place} has images of another domain and none in {', '.join(folders[where.domain])}: give images "
            f"of domain {where.domain}"
        )
    return names if own is None else own


def _array(where: str, content: bytes, spec: TensorSpec, limits: SizeLimits) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageSetError(
            f"{where} cannot be read ({one_line(error)}): remove it or write it with numpy.save"
        ) from error
    if array.ndim != 3 or array.shape[-1] != spec.shape[-1] or array.dtype != spec.dtype:
        raise ImageSetError(
            f"{where} is {array.dtype} {list(array.shape)} and must be {spec.dtype} [height, width, {spec.shape[-1]}]"
        )
    assert spec.value_range is not None
    low, high = spec.value_range
    if array.size and not (low <= array.min() and array.max() <= high):
        raise ImageSetError(f"{where} has values outside {low:g}..{high:g}: give the right --value-range")
    height, width = (
        min(size, axis.maximum) // axis.multiple * axis.multiple
        for size, axis in zip(array.shape, (limits.height, limits.width), strict=False)
    )
    if height < limits.height.minimum or width < limits.width.minimum:
        raise ImageSetError(f"{where} is {array.shape[1]}×{array.shape[0]} pixels, too small for the network")
    return array[:height, :width]


def _decode(files: ImageFiles, name: str, channels: int, limits: SizeLimits, size: int) -> NDArray[np.uint8]:
    """Return the file `name` as uint8 [height, width, channels] of a legal size."""
    image = files.open(name, channels)
    if image is None:
        reason = files.unreadable[name]
        raise ImageSetError(f"{files.root}/{printable(name)} cannot be decoded ({reason}): remove or repair it")
    scale = size / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    height, width = limits.legal(height, width)
    return to_array(image.resize((width, height), Image.Resampling.BICUBIC))
