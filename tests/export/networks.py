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
from export.model_under_test import ModelUnderTest
from export.reference import TorchReference
from export.targets.base import Target
from export.wrapper import TraceableModel, wrap
from trainer import registry
from trainer.config import Section as ConfigSection
from trainer.models.base import Generator, Translator

Section = dict[str, Any]
SIDE, LARGEST, STEPS, CLASSES = 32, 48, 50, 3
GENERATOR: Section = {"type": "dcgan_generator", "latent_dim": 8, "size": 16, "width": 4}
TRANSLATOR: Section = {"type": "resnet_generator", "width": 4, "blocks": 0}
CONDITIONAL: Section = {"type": "tests.export.networks:ConditionalGenerator"}
SCALER: Section = {"type": "tests.export.networks:Scaler"}
_SMALL = {"width": 4, "blocks": 1, "size": 32, "latent_dim": 8, "depth": 3}
_VARIANTS: dict[str, Section] = {
    "antialiased": {"type": "resnet_generator", "downsampling": "antialiased", "upsampling": "antialiased"}
}


@registry.register("model")
class ConditionalGenerator(nn.Module):
    """A linear layer from a latent and the embedding of a class to images of 8 x 8 pixels."""

    class Config(ConfigSection):
        """There is nothing to set."""

    latent_dim, channels, size, classes = 6, 3, 8, CLASSES

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, self.latent_dim)
        self.layer = nn.Linear(self.latent_dim, 3 * 8 * 8)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Decode latents, [b, 6], and labels, [b], to images, [b, 3, 8, 8] in -1..1."""
        return torch.tanh(self.layer(latent + 2 * self.embedding(label))).reshape(-1, 3, 8, 8)


@registry.register("model")
class Scaler(nn.Module):
    """Two convolutions and a pixel shuffle: images `scale` times as high and as wide."""

    class Config(ConfigSection):
        """`promised` is the scale that the network declares, if that is another."""

        scale: int = 2
        promised: int | None = None

    in_channels = out_channels = 3
    size_multiple, minimum_size = 1, 4

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scale = config.promised or config.scale
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 3 * config.scale**2, 3, padding=1),
            nn.PixelShuffle(config.scale),
            nn.Tanh(),
        )

    def forward(self, source: Tensor) -> Tensor:
        """[b, 3, h, w] in -1..1 to [b, 3, h * scale, w * scale] in -1..1."""
        image: Tensor = self.layers(source)
        return image


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


def write_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (24, SIDE)) -> Path:
    """Write smooth pictures into the new `folder`, and return that."""
    folder.mkdir()
    for index, picture in enumerate(smooth(count, *size)):
        Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def fit(network: nn.Module, *, steps: int = STEPS, seed: int = 0) -> nn.Module:
    """Fit `network` to a fixed map: images to their negatives, latents to blends of pictures; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    inputs, wanted = _latents(network, generator) if isinstance(network, Generator) else _images(network)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-2)
    for _ in range(steps):
        chosen = torch.randperm(len(wanted), generator=generator)[:4]
        optimizer.zero_grad()
        F.mse_loss(network(*(tensor[chosen] for tensor in inputs)), wanted[chosen]).backward()
        optimizer.step()
    return network.eval()


def _latents(network: Any, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
    latents = torch.randn(32, network.latent_dim, generator=generator)
    pictures = torch.from_numpy(smooth(network.latent_dim, network.size, network.size, network.channels))
    wanted = torch.tanh(torch.einsum("bz,zhwc->bchw", latents, pictures.float() * 2 - 1))
    if network.classes is None:
        return (latents,), wanted
    label = torch.arange(32) % network.classes
    # Each class has its own brightness.
    return (latents, label), wanted * (label + 1).reshape(-1, 1, 1, 1) / network.classes


def _images(network: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    pictures = torch.from_numpy(smooth(16, SIDE, SIDE, max(network.in_channels, network.out_channels))).float()
    images = pictures.permute(0, 3, 1, 2) * 2 - 1
    wanted = F.interpolate(-images[:, : network.out_channels], scale_factor=network.scale, mode="nearest")
    return (images[:, : network.in_channels],), wanted


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
    traceable = wrap(fit(build(EXPORTABLE[name])), name, training_size=SIDE, max_size=LARGEST)
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
        provenance=Provenance("snapshot", "cc", "G", 7),
        task="gan",
        licence="CC0",
    )
