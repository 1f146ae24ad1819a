"""A task of another package, with all its parts: dataset, networks, training scheme and metric.

Grey drawings (A) belong to coloured ones (B): the class of an example says which colour. One network paints a drawing,
another one decodes a latent and a class label to a coloured image. Both are trained as one player, in two phases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from trainer import registry
from trainer.config import Resume, Section
from trainer.data.base import DataConfig, DataSpec, Example, Image, ImageSpec
from trainer.data.sampler import sample_index
from trainer.registry import ModelComponent, register
from trainer.tasks.base import Batch, Export, Losses, OptimizerSection, Phase
from zorse_common.random import counter_rng, normal

SIZE, CLASSES = 16, 3


@register("data")
class ColouredDrawings:
    """Rectangles, grey in A and in the colour of the example's class in B."""

    class Config(DataConfig):
        """`images` is the number of different training examples."""

        images: int = Field(default=30, gt=0)

        def spec(self) -> DataSpec:
            """Return a pair of images and a class label."""
            return DataSpec({"A": ImageSpec(SIZE, 1), "B": ImageSpec(SIZE, 3)}, classes=CLASSES, paired=True)

    digest = "coloured drawings"

    def __init__(self, config: Config, *, seed: int) -> None:
        self.spec, self._images, self._seed = config.spec(), config.images, seed
        self.facts: list[str] = [f"training: {config.images} drawings"]
        self.skipped: list[str] = []

    def count(self, domain: str) -> int:
        """Return the number of training examples."""
        return self._images

    def example(self, number: int) -> Example:
        """Return one pair and its label."""
        index = sample_index(self._seed, "order/drawings", number, self._images)
        return self._pair("training", index)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return drawings that are not trained on."""
        return [self._pair("held out", index).images[domain] for index in range(count)]

    def _pair(self, kind: str, index: int) -> Example:
        draw, label = counter_rng(0, f"drawing/{kind}", index), index % CLASSES
        grey = np.zeros((SIZE, SIZE, 1), np.uint8)
        top, left = draw.integers(0, SIZE // 2, 2)
        grey[top : top + SIZE // 2, left : left + SIZE // 2] = draw.integers(100, 256)
        coloured = np.zeros((SIZE, SIZE, 3), np.uint8)
        coloured[..., label] = grey[..., 0]
        return Example({"A": grey, "B": coloured}, label)


@register("model")
class Painter(nn.Module):
    """Two convolutions from 1 to 3 channels."""

    class Config(Section):
        """`width` is the number of hidden channels."""

        width: int = 8

    in_channels, out_channels, size_multiple, minimum_size, scale = 1, 3, 1, 4, 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1), nn.ReLU(), nn.Conv2d(config.width, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, source: Tensor) -> Tensor:
        """Paint drawings, [b, 1, h, w] in -1..1: [b, 3, h, w] in -1..1."""
        painted: Tensor = self.layers(source)
        return painted


@register("model")
class ClassDecoder(nn.Module):
    """A linear layer from a latent and the embedding of a class to an image."""

    class Config(Section):
        """`latent_dim` is the length of the latent."""

        latent_dim: int = 5

    channels, size, classes = 3, SIZE, CLASSES

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.embedding = nn.Embedding(CLASSES, config.latent_dim)
        self.layer = nn.Linear(2 * config.latent_dim, 3 * SIZE * SIZE)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Decode latents, [b, latent_dim], and labels, [b]: [b, 3, 16, 16] in -1..1."""
        joined = torch.cat([latent, self.embedding(label)], dim=1)
        return self.layer(joined).tanh().reshape(-1, 3, SIZE, SIZE)


@register("task")
class PaintAndDecode:
    """Both networks are one player; every second step has a second phase that pulls their weights towards zero."""

    class Config(Section):
        """The two networks, the weight of the second phase and the player's optimiser."""

        painter: ModelComponent
        decoder: ModelComponent
        decay_weight: Annotated[float, Field(ge=0), Resume.MAY_CHANGE] = 0.01
        optimizer: OptimizerSection = OptimizerSection()

    phases = (Phase("paint", ("P", "C")), Phase("decay", ("P", "C"), interval=2))

    def __init__(self, config: Config, *, seed: int, global_size: int) -> None:
        self._config = config
        self.networks = nn.ModuleDict({"P": registry.build(config.painter), "C": registry.build(config.decoder)})

    def data(self) -> DataSpec:
        """Return a pair of images and a class label."""
        return DataSpec({"A": ImageSpec(None, 1), "B": ImageSpec(SIZE, 3)}, classes=CLASSES, paired=True)

    def prepare(self, numbers: NDArray[np.int64], seed: int) -> dict[str, NDArray[Any]]:
        """Draw a latent, float32 [b, latent_dim]."""
        return {"latent": normal(seed, "latent/paint", numbers.tolist(), self.networks["C"].latent_dim)}

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the player's optimiser."""
        return self._config.optimizer

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """Compute the distance of both networks' images to the true ones, or the squares of all weights."""
        if phase.name == "decay":
            decay = torch.stack([weight.square().mean() for weight in self.networks.parameters()]).sum()
            return Losses(self._config.decay_weight * decay, {"decay": decay.detach()})
        generated, true = self.generate(self.networks, batch)["B"], batch.images["B"]
        assert batch.labels is not None
        decoded = self.networks["C"](batch.draws["latent"], batch.labels)
        painting, decoding = l1_loss(generated.float(), true), mse_loss(decoded.float(), true)
        return Losses(painting + decoding, {"painting": painting.detach(), "decoding": decoding.detach()})

    def exports(self) -> dict[str, Export]:
        """Return both networks."""
        return {
            "P": Export(self._config.painter, source="A", target="B"),
            "C": Export(self._config.decoder, target="B"),
        }

    def generate(self, generators: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        """Paint the drawings."""
        return {"B": generators["P"](batch.images["A"])}

    def state(self) -> dict[str, Tensor]:
        """Return nothing: a step leaves nothing for the next."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Restore nothing."""

    def reseed(self, seed: int) -> None:
        """Change nothing: all draws are made by `prepare`."""


@register("metric")
class Colourfulness:
    """The mean distance between the largest and the smallest channel of a pixel, in grey levels."""

    class Config(Section):
        """`scale` multiplies the figure."""

        scale: float = 1.0

    def __init__(self, config: Config, *, seed: int) -> None:
        self._scale, self._sum, self._count = config.scale, 0, 0

    def update(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        """Add images, uint8 [n, h, w, 3]."""
        spread = images.max(axis=3).astype(np.int64) - images.min(axis=3)
        self._sum, self._count = self._sum + int(spread.sum()), self._count + spread.size

    def state(self) -> tuple[int, int]:
        """Return the sum and the number of pixels."""
        return self._sum, self._count

    def merge(self, state: tuple[int, int]) -> None:
        """Add another worker's sum and number."""
        self._sum, self._count = self._sum + state[0], self._count + state[1]

    def compute(self) -> dict[str, float]:
        """Return the mean."""
        return {"colourfulness": self._scale * self._sum / self._count}
