"""Imports the generator of PyTorch's DCGAN tutorial and of github.com/pytorch/examples (Radford et al. 2016)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from export.errors import OTHER_WAY, ImporterError
from export.importers.base import Importer, register
from export.state_dicts.foreign import read_state_dict
from export.state_dicts.moving import Layer, move
from trainer.snapshot import Snapshot


def read(path: Path) -> Snapshot:
    """Return the generator in `path` as a snapshot; its size and the tutorial's nz, ngf and nc come from its tensors.

    The layers are a sequence `main`: transposed convolutions without biases at 0, 3, 6, …, and a batch norm after each
    but the last. Our network has the same order.

    Raises:
        ImporterError: the file cannot be read, or is not this generator.
    """
    foreign = read_state_dict(path)
    matches = (re.fullmatch(r"main\.(\d+)\.weight", key) for key, value in foreign.tensors.items() if value.ndim == 4)
    indices = sorted(int(match[1]) for match in matches if match)
    if len(indices) < 2 or indices != list(range(0, 3 * len(indices), 3)):
        raise ImporterError(
            f"{path} is not the tutorial's generator: its layers are not main.0, main.3, main.6, …: {OTHER_WAY}"
        )
    first, last = (foreign.tensors[f"main.{index}.weight"] for index in (indices[0], indices[-1]))
    size = 4 * 2 ** (len(indices) - 1)
    model: dict[str, Any] = {
        "type": "dcgan_generator",
        "latent_dim": len(first),
        "channels": last.shape[1],
        "size": size,
        "width": len(last),
        "norm": "batch",
    }
    layers = [
        Layer((f"layers.{i}", f"main.{i}"), (f"layers.{i + 1}", f"main.{i + 1}") if i < indices[-1] else None)
        for i in indices
    ]
    return move(foreign, model, layers, task="gan", size=size)


def fits(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of the tutorial's generator."""
    first, second = tensors.get("main.0.weight"), tensors.get("main.1.running_mean")
    return first is not None and second is not None and first.ndim == 4


register(Importer("dcgan-tutorial", read, fits))
