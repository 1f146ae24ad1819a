"""Pure functions that make, check and pad a model's inputs, and crop its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, LABEL, LATENT, SOURCE, Interface, SizeLimits, TensorSpec
from serving.batching import Tensors
from serving.errors import BadRequestError, ImageSizeError, UnsupportedError
from serving.sizes import padded_size
from zorse_common.errors import nearest_hint, shortened
from zorse_common.random import normal


def latent_dim(interface: Interface, verb: str) -> int:
    """Return the length of a latent.

    Raises:
        UnsupportedError: the model is not a generator; `verb` is what it cannot do.
    """
    if interface.latent is None:
        raise _wrong_kind(interface, verb)
    return interface.latent.dim


def latents(seed: int, numbers: Iterable[int], dim: int) -> NDArray[np.float32]:
    """Return the latents of the images `numbers` of `seed`: float32 [n, dim], standard normal.

    `seed` and every number are in [0, 2⁶³). Image k of seed s has the same latent in every batch, process and machine.
    """
    return normal(seed, "latent/served", numbers, dim)


def codes(vectors: Sequence[Sequence[float]], dim: int) -> NDArray[np.float32]:
    """Return latents that a request has in full: float32 [n, dim].

    Raises:
        BadRequestError: one has another length than `dim`, or a number is too large for float32.
    """
    for row, vector in enumerate(vectors):
        if len(vector) != dim:
            raise BadRequestError(f"latent {row} has {len(vector)} numbers and the model takes {dim}")
    array = np.array(vectors, dtype=np.float64)
    if np.abs(array).max() > np.finfo(np.float32).max:
        raise BadRequestError("a latent has a number that is too large for float32")
    return array.astype(np.float32)


def generator_feeds(
    interface: Interface,
    codes: NDArray[np.float32],
    classes: str | int | Sequence[str | int] | None,
    numbers: Sequence[int],
) -> Feeds:
    """Return the inputs of a generator: the latents `codes` [n, dim], and the labels where it is conditional.

    `classes`, `numbers` and the errors are those of `class_labels`.
    """
    labels = class_labels(interface, classes, numbers)
    return {LATENT: codes} if labels is None else {LATENT: codes, LABEL: labels}


def class_labels(
    interface: Interface, classes: str | int | Sequence[str | int] | None, numbers: Sequence[int]
) -> NDArray[np.int64] | None:
    """Return the label of each image of `numbers`: int64 [n], or None for a generator without classes.

    `classes` is one class for all images, by name or index, or a list with one for each. Without it image k is of class
    k modulo the number of classes.

    Raises:
        UnsupportedError: the generator has no classes and `classes` is not None.
        BadRequestError: there is no such class, or the list has another length than `numbers`.
    """
    names = interface.labels
    if names is None:
        if classes is not None:
            raise UnsupportedError("the model has no classes: leave the label out")
        return None
    if classes is None:
        return np.array([number % len(names) for number in numbers], dtype=np.int64)
    if isinstance(classes, str | int):
        classes = [classes] * len(numbers)
    if len(classes) != len(numbers):
        raise BadRequestError(f"{len(classes)} labels for {len(numbers)} images: give one label, or one for each image")
    return np.array([_class_index(names, entry) for entry in classes], dtype=np.int64)


def _class_index(names: Sequence[str], entry: str | int) -> int:
    if entry in names:
        return names.index(str(entry))
    if isinstance(entry, str) and not entry.isdecimal():
        listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        hint = nearest_hint(entry, names)
        raise BadRequestError(f"there is no class {shortened(entry)!r}{hint}: the classes are {listed}")
    if isinstance(entry, str):
        entry = entry.lstrip("0") or "0"
    # Python does not convert thousands of digits.
    index = int(entry) if isinstance(entry, int) or len(entry) <= 9 else len(names)
    if not 0 <= index < len(names):
        raise BadRequestError(f"there is no class {str(entry)[:20]}: the model has the classes 0 to {len(names) - 1}")
    return index


def source_feeds(interface: Interface, images: NDArray[Any]) -> Feeds:
    """Return the inputs that translate `images` [n, h, w, c].

    Raises:
        UnsupportedError: the model is not a translator.
    """
    source_size(interface)
    return {SOURCE: images}


def source_size(interface: Interface) -> SizeLimits:
    """Return the sizes of the source images of a translator.

    Raises:
        UnsupportedError: the model is not a translator.
    """
    if interface.size is None:
        raise _wrong_kind(interface, "translate")
    return interface.size


def source_channels(interface: Interface) -> int:
    """Return how many channels the image files have that a translator takes.

    Raises:
        UnsupportedError: the model is not a translator, or its images are not of 8 bits.
    """
    source_size(interface)
    source = interface.inputs[0]
    if source.dtype != "uint8":
        raise UnsupportedError(f"the images of the model are {source.dtype}, which no image file has: use infer")
    return int(source.shape[-1])


def check(interface: Interface, feeds: Feeds) -> None:
    """Compare `feeds` with the inputs of the model. Any number of rows is accepted, and source images of any size.

    Raises:
        BadRequestError: an input is missing, unknown, or of another dtype or shape, or the first axes differ.
        ImageSizeError: source images are larger than the model takes.
    """
    names = [spec.name for spec in interface.inputs]
    if len(feeds) != len(names) or not all(map(feeds.__contains__, names)):
        expected, received = ", ".join(sorted(names)), ", ".join(sorted(feeds)) or "none"
        raise BadRequestError(f"the model takes the inputs {expected} and got {shortened(received)}")
    for spec in interface.inputs:
        # More rows than a graph with a fixed batch takes are run in parts, and source images are padded.
        axes = ("height", "width", spec.shape[-1]) if spec.name == SOURCE else spec.shape[1:]
        _check_tensor(spec, ("batch", *axes), feeds[spec.name])
    if len(names) > 1 and len({array.shape[0] for array in feeds.values()}) != 1:
        raise BadRequestError("the inputs have different batch sizes: give every input the same first axis")
    if interface.size is not None:
        check_source_size(interface.size, *feeds[SOURCE].shape[1:3])


def _check_tensor(spec: TensorSpec, shape: tuple[int | str, ...], array: NDArray[Any]) -> None:
    """Compare the dtype, the shape and the values of one input with those in `spec`, but with `shape` for its shape."""
    fits = array.ndim == len(shape) and array.size > 0
    if fits and array.shape[1:] != shape[1:]:
        fits = all(size == axis for size, axis in zip(array.shape, shape, strict=True) if isinstance(axis, int))
    if array.dtype != spec.dtype or not fits:
        expected = ", ".join(map(str, shape))
        raise BadRequestError(f"{spec.name} must be {spec.dtype} [{expected}] and is {array.dtype} {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequestError(f"{spec.name} holds NaN or infinity")
    if spec.value_range is not None and not _holds_every_value(spec.value_range, array.dtype):
        low, high = spec.value_range
        if array.min() < low or array.max() > high:
            raise BadRequestError(f"{spec.name} must lie in [{low:g}, {high:g}]")


def _holds_every_value(value_range: tuple[float, float], dtype: np.dtype[Any]) -> bool:
    """Return whether no value of an unsigned `dtype` is outside `value_range`."""
    return dtype.kind == "u" and value_range[0] <= 0 and value_range[1] >= np.iinfo(dtype).max


def check_source_size(size: SizeLimits, height: int, width: int, *, turned: bool = False) -> None:
    """Compare the size of a source image with the largest one of a translator, or if `turned`, in either orientation.

    Raises:
        ImageSizeError: the image is larger.
    """
    max_height, max_width = size.largest
    if (height <= max_height and width <= max_width) or (turned and width <= max_height and height <= max_width):
        return
    remedy = "scale it down, translate it in tiles (tile=true), or export "
    if size.smallest == size.largest:
        remedy += "the network with open axes"
    else:
        remedy += "the model with a larger --max-size"
    raise ImageSizeError(
        f"{width}×{height} is larger than the {max_width}×{max_height} pixels that the model takes: {remedy}"
    )


def pad(interface: Interface, buckets: Sequence[tuple[int, ...]], feeds: Feeds) -> Feeds:
    """Pad the source images of checked `feeds` at the right and the bottom to their `padded_size`, by reflection."""
    if interface.size is None:
        return feeds
    images = feeds[SOURCE]
    count, height, width, channels = images.shape
    size = padded_size(interface, buckets, height, width)
    if size == (height, width):
        return feeds
    padded = np.empty_like(images, order="C", shape=(count, *size, channels))
    padded[:, :height, :width] = images
    _reflect(padded[:, :height].swapaxes(1, 2), width)
    _reflect(padded, height)
    return {**feeds, SOURCE: padded}


def _reflect(images: NDArray[Any], filled: int) -> None:
    """Fill the second axis of `images` from index `filled` on, by reflection about the last filled index.

    The result is that of `np.pad`, which takes two to three times as long.
    """
    if filled == 1:
        images[:, 1:] = images[:, :1]
        return
    while missing := images.shape[1] - filled:
        step = min(missing, filled - 1)
        images[:, filled : filled + step] = images[:, filled - 1 - step : filled - 1][:, ::-1]
        filled += step


def crop(interface: Interface, feeds: Feeds, outputs: Tensors) -> Tensors:
    """Cut off the part of the output images that belongs to the padding; `feeds` are those before `pad`."""
    if interface.size is None:
        return outputs
    height, width = feeds[SOURCE].shape[1:3]
    return {**outputs, IMAGE: outputs[IMAGE][:, : height * interface.scale, : width * interface.scale]}


def _wrong_kind(interface: Interface, verb: str) -> UnsupportedError:
    names = ", ".join(spec.name for spec in interface.inputs)
    return UnsupportedError(f"the model is a {interface.kind} with the inputs {names}: it does not {verb}")
