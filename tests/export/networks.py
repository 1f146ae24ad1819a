"""Tiny networks of every exportable architecture, fitted until what they make is no flat grey."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from export.convert import convert
from export.lint import trace
from export.manifest import Provenance
from export.model_under_test import ModelCard, ModelUnderTest
from export.reference import TorchReference
from export.targets.base import Target
from export.wrapper import TraceableModel, wrap
from trainer import registry
from trainer.models.base import Generator, Translator

Section = dict[str, Any]
EDGE, LARGEST, STEPS = 32, 48, 50
GENERATOR: Section = {"type": "dcgan_generator", "latent_dim": 8, "size": 16, "width": 4}
TRANSLATOR: Section = {"type": "resnet_generator", "width": 4, "blocks": 0}
_SMALL = {"width": 4, "blocks": 1, "size": 32, "latent_dim": 8, "depth": 3}
_VARIANTS: dict[str, Section] = {
    "antialiased": {"type": "resnet_generator", "downsampling": "antialiased", "upsampling": "antialiased"}
}


def build(section: Section) -> nn.Module:
    """A freshly made network, the same every time."""
    torch.manual_seed(0)
    network: nn.Module = registry.build(registry.resolve("model", section))
    return network


def smooth(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.float64]:
    """Seeded pictures without hard edges, [count, height, width, channels] in 0..1."""
    coarse = np.random.default_rng(seed).uniform(-0.4, 1.4, (count, channels, 4, 4))
    fine = F.interpolate(torch.from_numpy(coarse), (height, width), mode="bicubic", align_corners=False)
    return fine.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def write_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (24, EDGE)) -> Path:
    """Write smooth pictures into the new `folder`, and return that."""
    folder.mkdir()
    for index, picture in enumerate(smooth(count, *size)):
        Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def fit(network: nn.Module, *, steps: int = STEPS, seed: int = 0) -> nn.Module:
    """Fit `network` to a fixed map, images to their negatives or codes to blends of pictures; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    given, wanted = _codes(network, generator) if isinstance(network, Generator) else _images(network)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-2)
    for _ in range(steps):
        chosen = torch.randperm(len(given), generator=generator)[:4]
        optimizer.zero_grad()
        F.mse_loss(network(given[chosen]), wanted[chosen]).backward()
        optimizer.step()
    return network.eval()


def _codes(network: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    codes = torch.randn(32, network.latent_dim, generator=generator)
    pictures = torch.from_numpy(smooth(network.latent_dim, network.size, network.size, network.channels))
    return codes, torch.tanh(torch.einsum("bz,zhwc->bchw", codes, pictures.float() * 2 - 1))


def _images(network: Any) -> tuple[Tensor, Tensor]:
    pictures = torch.from_numpy(smooth(16, EDGE, EDGE, max(network.in_channels, network.out_channels))).float()
    images = pictures.permute(0, 3, 1, 2) * 2 - 1
    return images[:, : network.in_channels], -images[:, : network.out_channels]


def _section(model: str, section: Section) -> Section:
    known = registry.component("model", model).Config.model_fields
    return {"type": model} | {key: value for key, value in _SMALL.items() if key in known} | section


def _exportable() -> dict[str, Section]:
    sections = {name: _section(name, {}) for name in registry.names("model")}
    sections |= {name: _section(section["type"], section) for name, section in _VARIANTS.items()}
    return {name: section for name, section in sections.items() if isinstance(build(section), Generator | Translator)}


EXPORTABLE = _exportable()
"""The section of every architecture that can become an artifact, and of variants of some, by a name for tests."""


@functools.cache
def converted(name: str) -> tuple[TraceableModel, Any]:
    """One of `EXPORTABLE`, fitted, in torch and in ONNX; images are at most `LARGEST` pixels a side."""
    traceable = wrap(fit(build(EXPORTABLE[name])), name, training_size=EDGE, max_size=LARGEST)
    return traceable, convert(trace(traceable, name), traceable.interface)


def under_test(traceable: TraceableModel, model: Any, target: Target | None = None) -> ModelUnderTest:
    """`model` as `zorse export` would prove it."""
    size = traceable.interface.size
    limits = size and size.at_least(target.smallest if target else 1)
    return ModelUnderTest(
        name="toy",
        interface=dataclasses.replace(traceable.interface, size=limits),
        model=model,
        reference=TorchReference(traceable),
        training_size=traceable.training_size,
        card=ModelCard("gan", licence="CC0"),
        provenance=Provenance("snapshot", "cc", "G", 7),
    )
