"""A generator and a discriminator trained against each other (Goodfellow et al. 2014)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import registry
from trainer.config import Resume, Section
from trainer.data.base import DataSpec, ImageSpec
from trainer.errors import ConfigError
from trainer.losses.base import AdversarialLoss, realness
from trainer.losses.non_saturating import NonSaturating
from trainer.models.base import Generator
from trainer.registry import LossComponent, ModelComponent, register
from trainer.tasks.base import Batch, Export, Losses, OptimizerSection, Phase
from zorse_common.random import normal


@register("task", "gan")
class Gan:
    """Trains a generator and a discriminator on one domain of unlabelled images."""

    class Config(Section):
        """Two networks, their adversarial loss, and an optimiser for each."""

        generator: ModelComponent
        discriminator: ModelComponent
        loss: Annotated[LossComponent, Resume.MAY_CHANGE] = NonSaturating.Config()
        generator_optimizer: OptimizerSection = OptimizerSection()
        discriminator_optimizer: OptimizerSection = OptimizerSection()

    phases = (Phase("discriminator", ("D",)), Phase("generator", ("G",)))

    def __init__(self, config: Config, *, seed: int, global_size: int) -> None:
        """Build both networks. Their weights are drawn from torch's global generator, which the caller seeds.

        Raises:
            trainer.errors.ConfigError: `task.generator` is not an unconditional generator.
        """
        generator: nn.Module = registry.build(config.generator)
        if not isinstance(generator, Generator) or generator.classes is not None:
            raise ConfigError(
                f"task.generator: {registry.type_of(config.generator)} does not decode latents alone to images"
            )
        self.networks = nn.ModuleDict({"G": generator, "D": registry.build(config.discriminator)})
        self._config, self._latent_dim = config, generator.latent_dim
        self._image = ImageSpec(generator.size, generator.channels)
        self._loss: AdversarialLoss = registry.build(config.loss)

    def data(self) -> DataSpec:
        """Return one domain of the images that the generator makes."""
        return DataSpec({"image": self._image})

    def prepare(self, numbers: NDArray[np.int64], seed: int) -> dict[str, NDArray[Any]]:
        """Draw a latent for each phase, float32 [b, latent_dim]. The two phases draw independently."""
        return {
            f"{phase.name}_latent": normal(seed, f"latent/{phase.name}", numbers.tolist(), self._latent_dim)
            for phase in self.phases
        }

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the optimiser of the generator or of the discriminator."""
        return self._config.generator_optimizer if networks == ("G",) else self._config.discriminator_optimizer

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """Compute the adversarial loss of one of the two networks."""
        generator, discriminator = self.networks["G"], self.networks["D"]
        latent = batch.draws[f"{phase.name}_latent"]
        if phase.name == "generator":
            loss = self._loss.generator(discriminator(generator(latent)).float())
            return Losses(loss, {"G loss": loss.detach()})
        with torch.no_grad():
            fake = generator(latent)
        on_real, on_fake = discriminator(batch.images["image"]).float(), discriminator(fake).float()
        loss = self._loss.discriminator(on_real, on_fake)
        return Losses(loss, {"D loss": loss.detach()}, {"D": realness(self._loss, on_real, on_fake)})

    def exports(self) -> dict[str, Export]:
        """Return the generator."""
        return {"G": Export(self._config.generator, target="image")}

    def generate(self, generators: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        """Decode the batch's latents."""
        return {"image": generators["G"](batch.draws["generator_latent"])}

    def state(self) -> dict[str, Tensor]:
        """Return no tensors: a step leaves nothing for the next."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Restore nothing: a step leaves nothing for the next."""

    def reseed(self, seed: int) -> None:
        """Change nothing: all draws are made by `prepare`."""
