"""What a model can be asked, free of transport: generate, translate, infer over an injected Engine.

The plan of each verb (which tensors go in, what is cut from what comes out) is pure; the online `ModelService` and the
in-process `LocalModel` differ only in how the tensors are run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.interface import TensorSpec
from export.manifest import Manifest
from serving import artifacts
from serving.batching import Submit, Tensors, bucket, capacity, chunks, merge, rows
from serving.config import Batching, Device, Limits
from serving.engine import Engine, cpu_cores, resolve_device
from serving.errors import BadRequestError, ImageSizeError, TooLargeError, UnsupportedError
from serving.latents import latents
from serving.replay import start

SOURCE, LATENT, IMAGE = "source", "latent", "image"
MAX_SEED = 2**63 - 1
_LOCAL_BATCHING = Batching()


def latent_feeds(manifest: Manifest, n: int, seed: int, first: int = 0) -> Tensors:
    """The inputs that generate images `first` … `first + n - 1` of `seed`.

    Raises:
        UnsupportedError: the model is no generator, or needs more than a latent.
        BadRequestError: a number is out of range.
    """
    if manifest.interface.latent is None or [tensor.name for tensor in manifest.interface.inputs] != [LATENT]:
        names = ", ".join(tensor.name for tensor in manifest.interface.inputs)
        raise UnsupportedError(
            f"{manifest.name} is a {manifest.interface.kind} with the inputs {names}: it does not generate"
        )
    if n < 1 or not 0 <= seed <= MAX_SEED or not 0 <= first <= MAX_SEED - n:
        raise BadRequestError(f"n={n}, seed={seed}, first={first} is out of range: n ≥ 1 and 0 ≤ seed, first < 2⁶³")
    return {LATENT: latents(seed, first, n, manifest.interface.latent.dim)}


def source_feeds(manifest: Manifest, images: NDArray[np.uint8]) -> Tensors:
    """The inputs that translate `images`, uint8 [n, h, w, c]: reflected right and down to the size multiple.

    Raises:
        UnsupportedError: the model is no translator, or needs more than a source.
        ImageSizeError: the images are larger than the model takes.
        BadRequestError: not uint8 of the model's channels.
    """
    if manifest.interface.size is None or [tensor.name for tensor in manifest.interface.inputs] != [SOURCE]:
        names = ", ".join(tensor.name for tensor in manifest.interface.inputs)
        raise UnsupportedError(
            f"{manifest.name} is a {manifest.interface.kind} with the inputs {names}: it does not translate"
        )
    tensor = manifest.interface.inputs[0]
    # Any height and width may be padded to those that the graph takes.
    check_tensor(dataclasses.replace(tensor, shape=("batch", "height", "width", tensor.shape[-1])), images)
    height, width = images.shape[1:3]
    most_high, most_wide = manifest.interface.size.largest
    if height > most_high or width > most_wide:
        fixed = manifest.interface.size.smallest == manifest.interface.size.largest
        remedy = (
            "scale or cut it to that, or export the network with open axes"
            if fixed
            else "scale it down, or export the model with a larger --max-size"
        )
        raise ImageSizeError(
            f"{width}×{height} is larger than the {most_wide}×{most_high} pixels that {manifest.name} takes: {remedy}"
        )
    padded_height, padded_width = manifest.interface.size.legal(height, width)
    down, right = padded_height - height, padded_width - width
    if down or right:
        images = np.pad(images, ((0, 0), (0, down), (0, right), (0, 0)), mode="reflect")
    return {SOURCE: images}


def check_feeds(manifest: Manifest, feeds: Tensors) -> None:
    """Compare `feeds` with the manifest's inputs.

    Raises:
        BadRequestError: an input is missing, unknown, or of another dtype or shape, or the batch sizes differ.
    """
    wanted = {tensor.name: tensor for tensor in manifest.interface.inputs}
    if feeds.keys() != wanted.keys():
        raise BadRequestError(
            f"{manifest.name} takes the inputs {', '.join(sorted(wanted))} and got {', '.join(sorted(feeds)) or 'none'}"
        )
    for name, tensor in wanted.items():
        # More rows than a graph of a fixed batch takes are run in parts.
        check_tensor(dataclasses.replace(tensor, shape=("batch", *tensor.shape[1:])), feeds[name])
    if len({array.shape[0] for array in feeds.values()}) != 1:
        raise BadRequestError("the inputs have different batch sizes: give every input the same first axis")


def check_tensor(tensor: TensorSpec, array: NDArray[Any]) -> None:
    """Compare one array with its declaration.

    Raises:
        BadRequestError: another dtype, another shape, an empty axis, or a value out of range.
    """
    fits = array.ndim == len(tensor.shape) and all(
        got == want if isinstance(want, int) else got > 0 for got, want in zip(array.shape, tensor.shape, strict=True)
    )
    if array.dtype != tensor.dtype or not fits:
        shape = ", ".join(str(axis) for axis in tensor.shape)
        raise BadRequestError(
            f"{tensor.name} must be {tensor.dtype} [{shape}] and is {array.dtype} {list(array.shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequestError(f"{tensor.name} holds NaN or infinity")
    if tensor.value_range is not None and array.size:
        low, high = tensor.value_range
        if array.min() < low or array.max() > high:
            raise BadRequestError(f"{tensor.name} must lie in [{low:g}, {high:g}]")


def channels(manifest: Manifest) -> int:
    """The channels of the image files that go into a translator, or come out of a generator.

    Raises:
        UnsupportedError: its images are not of 8 bits, as files are.
    """
    tensor = manifest.interface.inputs[0] if manifest.interface.kind == "translator" else manifest.interface.outputs[0]
    if tensor.dtype != "uint8":
        raise UnsupportedError(f"the images of {manifest.name} are {tensor.dtype}, which no image file has: use infer")
    return int(tensor.shape[-1])


def batching_of(manifest: Manifest, batching: Batching) -> Batching:
    """`batching`, cut to the batch that the graph has where it has a fixed one."""
    batch = manifest.interface.inputs[0].shape[0]
    return batching.model_copy(update={"max_size": batch}) if isinstance(batch, int) else batching


def warm_up(engine: Engine, manifest: Manifest) -> None:
    """Run the smallest request once, so that the first user does not pay for the graph's set-up."""
    if manifest.interface.latent is not None and len(manifest.interface.inputs) == 1:
        engine.run(latent_feeds(manifest, 1, 0))
    elif manifest.interface.size is not None and len(manifest.interface.inputs) == 1:
        source = manifest.interface.inputs[0]
        # Zero is no legal value of every range.
        darkest = np.full(
            (1, *manifest.interface.size.smallest, int(source.shape[-1])), (source.value_range or (0,))[0]
        )
        engine.run(source_feeds(manifest, darkest.astype(source.dtype)))


class ModelService:
    """One model online: checks, limits and verbs; `submit` runs tensors in batches with other requests.

    Tensors are checked, padded and drawn in threads: the event loop stays free for the other requests.
    """

    def __init__(self, manifest: Manifest, submit: Submit, limits: Limits) -> None:
        self.manifest = manifest
        self.limits = limits
        self._submit = submit

    async def generate(self, n: int, seed: int, first: int = 0) -> NDArray[np.uint8]:
        """Images `first` … `first + n - 1` of `seed`: uint8 [n, h, w, c]. Raises as `latent_feeds` and `channels`."""
        self._check_count(n)
        channels(self.manifest)
        feeds = await asyncio.to_thread(latent_feeds, self.manifest, n, seed, first)
        return _image(await self._submit(feeds))

    async def translate(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [n, h, w, c] → uint8 of `scale` times the height and width. Raises as `source_feeds`."""
        self._check_count(images.shape[0] if images.ndim else 0)
        feeds = await asyncio.to_thread(source_feeds, self.manifest, images)
        return _crop(_image(await self._submit(feeds)), images, self.manifest.interface.scale)

    async def infer(self, feeds: Tensors) -> Mapping[str, NDArray[Any]]:
        """The outputs by name for explicit inputs; a translator's images are padded and cropped as in `translate`."""
        if feeds.keys() == {SOURCE} and [tensor.name for tensor in self.manifest.interface.inputs] == [SOURCE]:
            return {IMAGE: await self.translate(feeds[SOURCE])}
        await asyncio.to_thread(check_feeds, self.manifest, feeds)
        self._check_count(rows(feeds))
        return await self._submit(feeds)

    def _check_count(self, n: int) -> None:
        if n > self.limits.images:
            raise TooLargeError(f"{n} images were asked for and the limit is {self.limits.images} a request")


class LocalModel:
    """One model in this process: `generate` and `translate`, synchronous, without a server."""

    def __init__(self, manifest: Manifest, engine: Engine) -> None:
        self.manifest = manifest
        self._engine = engine

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: Device = "auto", threads: int | None = None) -> Self:
        """Open the model at `path`, a path or URI: an artifact folder, a model folder (newest version) or MODEL@ALIAS.

        Raises:
            ArtifactError: there is no sound artifact.
            EngineError: it cannot be run on `device`.
        """
        artifact = artifacts.load(path)
        on, cores = resolve_device(device), threads or cpu_cores()
        return cls(artifact.manifest, start(artifact, on, cores))

    def generate(self, n: int, seed: int = 0, first: int = 0) -> NDArray[np.uint8]:
        """Images `first` … `first + n - 1` of `seed`: uint8 [n, h, w, c]. Raises as `latent_feeds`."""
        return _image(self._run(latent_feeds(self.manifest, n, seed, first)))

    def translate(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [h, w, c] or [n, h, w, c] → uint8 of `scale` times the height and width. Raises as `source_feeds`."""
        if images.ndim == 3:
            image: NDArray[np.uint8] = self.translate(images[None])[0]
            return image
        return _crop(_image(self._run(source_feeds(self.manifest, images))), images, self.manifest.interface.scale)

    def _run(self, feeds: Tensors) -> Tensors:
        size = capacity(bucket(feeds), batching_of(self.manifest, _LOCAL_BATCHING))
        return merge([self._engine.run(part) for part in chunks(feeds, size)])


def _image(outputs: Tensors) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = outputs[IMAGE]
    return image


def _crop(images: NDArray[np.uint8], sources: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Cut off what was made of the padding."""
    return images[:, : sources.shape[1] * scale, : sources.shape[2] * scale]
