"""A generator and a discriminator trained against each other (Goodfellow et al. 2014)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor, nn

from trainer import registry
from trainer.config import Resume, Section
from trainer.errors import ConfigError
from trainer.losses.base import AdversarialLoss
from trainer.losses.non_saturating import NonSaturating
from trainer.models.base import Generator
from trainer.registry import LossComponent, ModelComponent, register
from trainer.tasks.base import Batch, Losses, OptimizerSection, Phase
from zorse_common.random import normal

SAMPLE_COLUMNS = 8


@register("task", "gan")
class Gan:
    """The two-player game on one collection of unlabelled images."""

    class Config(Section):
        """A generator, a discriminator, the loss they play for, and an optimiser each."""

        generator: ModelComponent
        discriminator: ModelComponent
        loss: Annotated[LossComponent, Resume.MAY_CHANGE] = NonSaturating.Config()
        generator_optimizer: OptimizerSection = OptimizerSection()
        discriminator_optimizer: OptimizerSection = OptimizerSection()

    domains = ("image",)
    phases = (Phase("discriminator", ("D",)), Phase("generator", ("G",)))
    generators: Mapping[str, str | None] = MappingProxyType({"G": None})

    def __init__(self, config: Config, *, seed: int, global_size: int) -> None:
        """Build both networks; their weights come from torch's generator, which the caller seeds.

        Raises:
            trainer.errors.ConfigError: the model given as generator does not decode latents.
        """
        generator: nn.Module = registry.build(config.generator)
        if not isinstance(generator, Generator):
            raise ConfigError(f"task.generator: {config.generator.component_type} does not decode latents to images")
        self._latent_dim = generator.latent_dim
        self.networks = nn.ModuleDict({"G": generator, "D": registry.build(config.discriminator)})
        self._loss: AdversarialLoss = registry.build(config.loss)
        optimizers = (config.discriminator_optimizer, config.generator_optimizer)
        self._optimizers = {phase.networks: section for phase, section in zip(self.phases, optimizers, strict=True)}
        self._seed = self._noise_seed = seed

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the optimiser of the generator or of the discriminator."""
        return self._optimizers[networks]

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """Each player's own latents, so that the generator answers on codes the discriminator has not seen."""
        generator, discriminator = self.networks["G"], self.networks["D"]
        if phase.name == "discriminator":
            with torch.no_grad():
                fake = generator(self._latents("latent/discriminator", batch))
            on_real, on_fake = discriminator(batch.images["image"]).float(), discriminator(fake).float()
            loss = self._loss.discriminator(on_real, on_fake)
            beliefs = {"D(real)": self._loss.belief(on_real), "D(fake)": self._loss.belief(on_fake)}
            logged = {name: belief.detach().mean() for name, belief in beliefs.items()}
            return Losses(loss, {"D loss": loss.detach(), **logged})
        fake = generator(self._latents("latent/generator", batch))
        loss = self._loss.generator(discriminator(fake).float())
        return Losses(loss, {"G loss": loss.detach()})

    def samples(self, generators: nn.ModuleDict, images: dict[str, Tensor], count: int) -> Tensor:
        """Decoded fixed codes."""
        latents = torch.from_numpy(normal(self._seed, "latent/samples", torch.arange(count).numpy(), self._latent_dim))
        made: Tensor = generators["G"](latents.to(next(generators.parameters()).device))
        return made

    def made(self, generators: nn.ModuleDict, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """As many of `samples` as there are real images."""
        return {"image": self.samples(generators, images, len(images["image"]))}

    def columns(self) -> int:
        """Eight images a row."""
        return SAMPLE_COLUMNS

    def state(self) -> dict[str, Tensor]:
        """Nothing is carried from step to step."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Nothing is carried from step to step."""

    def reseed(self, seed: int) -> None:
        """Draw latents from another seed; those of `samples` stay."""
        self._noise_seed = seed

    def _latents(self, stream: str, batch: Batch) -> Tensor:
        latents = torch.from_numpy(normal(self._noise_seed, stream, batch.numbers.numpy(), self._latent_dim))
        return latents.to(batch.images["image"].device)
