"""What an export target is, and the registry of them: one file beside this one adds one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from export.errors import ExportError
from zorse_common.registry import Registry


@dataclass(frozen=True)
class Variant:
    """A model of a target.

    onnxruntime's CPU provider, which proves models, does not round to every type as other devices do. Where that
    matters, `emulation` is a model in float32 that does, and is held against the reference as well.
    """

    model: onnx.ModelProto
    emulation: onnx.ModelProto | None = None


class Variants(Protocol):
    """Makes models of a target from one in float32, the best to have first; of those the first that is proved is taken.

    `model` has one input and one output, whose names, dtypes and shapes stay. `samples` are what calibrated
    targets are calibrated with: legal inputs, [1, height, width, channels] of translators and [batch, z] of generators.
    """

    def __call__(self, model: onnx.ModelProto, samples: Sequence[NDArray[Any]]) -> Iterator[Variant]: ...


@dataclass(frozen=True)
class Target:
    """A kind of model, and what its proof asks for.

    No value may be more than `tolerance` grey levels from the reference, or one step of the images' dtype where that is
    more, and the PSNR on each input must be `min_psnr` dB. Other devices and versions of onnxruntime may be
    `replay_tolerance` grey levels from the golden sample. A layer diverges where its relative error exceeds
    `layer_tolerance`. Images under `smallest` pixels a side are not for it (norms over a few values magnify every
    rounding): servers pad them. `calibrated` targets need real images for translators, and are proved on such alone:
    noise has other ranges than what they were calibrated on. `large` ones may have models above 2 GB.
    """

    name: str
    variants: Variants
    tolerance: float
    min_psnr: float
    replay_tolerance: float
    layer_tolerance: float
    smallest: int = 1
    calibrated: bool = False
    large: bool = False


_registry = Registry[Target]("export.targets", "export target", ExportError)
names, find = _registry.names, _registry.find


def register(target: Target) -> None:
    """Make `target` known by its name."""
    _registry.register(target.name, target)
