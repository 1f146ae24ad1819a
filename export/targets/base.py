"""What an export target is, and the registry of them: one file beside this one adds one."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx
import torch
from torch import nn

from export.errors import ExportError
from export.manifest import Tensor as Port


class Convert(Protocol):
    """Turns a graph into an ONNX model with one input `given` and one output `made`.

    `graph` takes one tensor of `given`'s dtype and axes (float32 [batch, latent_dim] or uint8 [batch, height, width,
    channels]) and returns one of `made`'s (uint8 [batch, height, width, channels]); so does the model. `example` is a
    legal input of batch 2; the axes that `given` and `made` name are dynamic. `metadata` goes into the model's
    `metadata_props`.

    Raises:
        UnsupportedGraphError: the graph cannot be converted, or is not a pure function of its input.
    """

    def __call__(
        self, graph: nn.Module, example: torch.Tensor, given: Port, made: Port, metadata: dict[str, str]
    ) -> onnx.ModelProto: ...


@dataclass(frozen=True)
class Target:
    """A way to convert; `tolerance` is the largest difference from torch, in grey levels, that a proof may find."""

    name: str
    opset: int
    tolerance: int
    convert: Convert


_targets: dict[str, Target] = {}


def register(target: Target) -> None:
    """Make `target` known by its name.

    Raises:
        TypeError: the name is taken.
    """
    if target.name in _targets:
        raise TypeError(f"export target {target.name!r} is registered twice")
    _targets[target.name] = target


def names() -> list[str]:
    """The names of all targets, sorted."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"export.targets.{module.name}")
    return sorted(_targets)


def find(name: str) -> Target:
    """The target `name`.

    Raises:
        ExportError: there is none.
    """
    known = names()
    if name not in known:
        raise ExportError(f"unknown export target {name!r}; known: {', '.join(known)}")
    return _targets[name]
