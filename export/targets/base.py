"""The export targets: what one is, and their registry. A file beside this one adds one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from export.errors import ExportError
from export.feeds import Feeds
from zorse_common.registry import Registry


@dataclass(frozen=True)
class Variant:
    """One model of a target.

    onnxruntime's CPU provider, on which models are proved, does not round to every dtype as other devices do. If that
    matters, `emulation` is a model in float32 that rounds explicitly; it is compared with the reference as well.
    """

    model: onnx.ModelProto
    emulation: onnx.ModelProto | None = None


Variants = Callable[[onnx.ModelProto, Sequence[Feeds]], Iterator[Variant]]
"""Yields the models of a target, made of a model in float32. The first one that is proved is published.

The inputs and outputs keep their names, dtypes and shapes. The second argument holds legal inputs for calibrated
targets, of one image each for translators.
"""


@dataclass(frozen=True)
class Target:
    """A kind of model that can be exported, and the limits of its proof."""

    name: str
    variants: Variants
    tolerance: float
    """The largest difference from the reference in grey levels; one step of the images' dtype if that is more."""
    min_psnr: float
    """The least peak signal-to-noise ratio on each input, in dB."""
    replay_tolerance: float
    """The largest difference in grey levels from the golden sample on other devices and versions of onnxruntime."""
    layer_tolerance: float
    """The relative error above which a layer counts as diverging."""
    smallest: int = 1
    """The least height and width in pixels; servers pad smaller images. Instance norms over few values amplify rounding
    errors."""
    calibrated: bool = False
    """Whether translators need real images, on which alone they are calibrated and proved: noise has other ranges."""
    large: bool = False
    """Whether models above 2 GB are possible."""


_registry = Registry[Target]("export.targets", "export target", ExportError)
names, find = _registry.names, _registry.find


def register(target: Target) -> None:
    """Make `target` known by its name."""
    _registry.register(target.name, target)
