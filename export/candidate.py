"""What wants to become an artifact, what it is held against, and the inputs on which that is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from export.interface import Interface, Kind, Latent, SizeLimits
from export.interface import TensorSpec as Port
from export.manifest import GREY_LEVELS, PROVED_BATCH, Provenance

Shape = tuple[int, ...]


class Reference(Protocol):
    """What a model must agree with."""

    name: str
    """Such as "torch 2.13.0"."""

    @property
    def clipped_share(self) -> float:
        """The share of all values made so far that lay beyond black and white, by more than a grey level."""

    def image(self, given: NDArray[Any]) -> NDArray[np.float32]:
        """The images [b, h, w, c] that should come out, in grey levels 0..255, before they are stored.

        Raises:
            ProofError: it does not run.
        """

    def layers(self, given: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """The output of each layer that has a name in the model, in the order in which they run."""


@dataclass(frozen=True)
class Statement:
    """What a person or another stage says of a model: its task, direction and licence, and figures of an evaluation."""

    task: str
    direction: str | None = None
    licence: str | None = None
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Candidate:
    """What wants to become an artifact: its ports, its limits, its model in float32 and what that is held against.

    `edge` is the training images' edge in pixels, `provenance` where the weights came from. A translator's images are
    `scale` times as high and as wide as what it is given.
    """

    name: str
    kind: Kind
    given: Port
    made: Port
    model: onnx.ModelProto
    reference: Reference
    edge: int
    statement: Statement
    provenance: Provenance
    size: SizeLimits | None = None
    latent: Latent | None = None
    scale: int = 1

    @property
    def interface(self) -> Interface:
        """The kind, inputs and outputs."""
        return Interface(self.kind, (self.given,), (self.made,), self.size, self.latent, scale=self.scale)


def probes(candidate: Candidate, images: Sequence[NDArray[Any]] = (), seed: int = 0) -> Iterator[NDArray[Any]]:
    """Inputs of several shapes, see `probe`: batches of 1 and more; for translators also the training size, the
    smallest and the largest one, and sizes that are not square."""
    shapes = _sizes(candidate.size, candidate.edge) if candidate.size else [(1,), (3,), (PROVED_BATCH,)]
    batch, *axes = candidate.given.shape
    for count, *edges in dict.fromkeys(shapes):
        count = batch if isinstance(batch, int) else count
        fixed = [axis for axis in axes[len(edges) :] if isinstance(axis, int)]
        yield probe(candidate, (count, *edges, *fixed), images, seed)


def _sizes(limits: SizeLimits, edge: int) -> list[Shape]:
    """Batch, height and width."""
    small = limits.legal(edge // 4, edge // 4)
    wider = limits.legal(small[0], small[1] + limits.width.multiple)
    return [
        (1, *limits.legal(edge, edge)),
        (3, *small),
        (PROVED_BATCH, *small),
        (2, *limits.legal(wider[1], limits.width.minimum)),
        (2, *wider),
        (1, *limits.smallest),
        (1, *limits.largest),
    ]


def probe(candidate: Candidate, shape: Shape, images: Sequence[NDArray[Any]] = (), seed: int = 0) -> NDArray[Any]:
    """An input of one shape: seeded standard normal codes, float32 [batch, z]; for translators the `images` [h, w, c],
    mirrored at their edges or cut (repeated ones darker, so that no two of a batch are the same), or where there are
    none noise over the port's range, [batch, height, width, c].
    """
    random, port = np.random.default_rng(seed), candidate.given
    if candidate.latent is not None:
        return random.standard_normal(shape, dtype=np.float32)
    assert port.value_range is not None
    low, high = port.value_range
    if images:
        count, height, width, _ = shape
        filled = [_filled(images[index % len(images)], height, width) for index in range(count)]
        darker = [low + (image - low) * 0.9 ** (index // len(images)) for index, image in enumerate(filled)]
        return np.stack(darker).astype(port.dtype)
    if port.dtype == "float32":
        return random.uniform(low, high, shape).astype(np.float32)
    return random.integers(int(low), int(high), shape, dtype=port.dtype, endpoint=True)


def _filled(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    missing = [(0, max(0, edge - size)) for edge, size in zip((height, width), image.shape, strict=False)]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric")[:height, :width]


def grey(port: Port, image: NDArray[Any]) -> NDArray[np.float64]:
    """Stored images in grey levels 0..255."""
    assert port.value_range is not None
    low, high = port.value_range
    return (image.astype(np.float64) - low) * (GREY_LEVELS / (high - low))


def stored(port: Port, levels: NDArray[Any]) -> NDArray[np.float64]:
    """Grey levels as they are once stored: rounded to the port's steps and cut to its range."""
    assert port.value_range is not None
    low, high = port.value_range
    if port.dtype != "float32":
        step = GREY_LEVELS / (high - low)
        levels = np.round(np.asarray(levels, np.float64) / step) * step
    cut: NDArray[np.float64] = np.clip(np.asarray(levels, np.float64), 0, GREY_LEVELS)
    return cut


def from_grey(port: Port, levels: NDArray[Any]) -> NDArray[Any]:
    """Stored grey levels as images of the port's dtype."""
    assert port.value_range is not None
    low, high = port.value_range
    values = levels * ((high - low) / GREY_LEVELS) + low
    return (values if port.dtype == "float32" else np.round(values)).astype(port.dtype)
