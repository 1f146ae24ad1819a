"""CycleGAN: unpaired image-to-image translation with cycle consistency (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from trainer import registry
from trainer.config import Resume, Section
from trainer.data.base import DataSpec, ImageSpec
from trainer.errors import ConfigError
from trainer.image_pool import ImagePool
from trainer.losses.base import AdversarialLoss, realness
from trainer.losses.least_squares import LeastSquares
from trainer.models.base import Translator
from trainer.registry import LossComponent, ModelComponent, register
from trainer.tasks.base import Batch, Export, Losses, OptimizerSection, Phase

DOMAINS = ("A", "B")
CYCLEGAN_OPTIMIZER = OptimizerSection(decay_from=0.5)


@register("task", "cyclegan")
class CycleGan:
    """Trains two translators, G_AB and G_BA, against two discriminators, D_A and D_B.

    The default loss weights and optimisers are those of the paper (section 4).
    """

    class Config(Section):
        """The keys of the task.

        Attributes:
            generator: the architecture of both translators.
            discriminator: the architecture of both discriminators.
            cycle_weight: λ of equation 3.
            identity_weight: the weight of the identity loss (section 5.2); 0 leaves the loss out.
            pool_size: the number of generated images of each domain that the pools of all workers hold together. With 0
                the discriminators see the newest images only.
        """

        generator: ModelComponent
        discriminator: ModelComponent
        loss: Annotated[LossComponent, Resume.MAY_CHANGE] = LeastSquares.Config()
        cycle_weight: Annotated[float, Field(ge=0), Resume.MAY_CHANGE] = 10.0
        identity_weight: Annotated[float, Field(ge=0), Resume.MAY_CHANGE] = 5.0
        pool_size: int = Field(default=50, ge=0)
        generator_optimizer: OptimizerSection = CYCLEGAN_OPTIMIZER
        discriminator_optimizer: OptimizerSection = CYCLEGAN_OPTIMIZER

    phases = (Phase("generator", ("G_AB", "G_BA")), Phase("discriminator", ("D_A", "D_B")))

    def __init__(self, config: Config, *, seed: int, global_size: int) -> None:
        """Build the four networks. Their weights are drawn from torch's global generator, which the caller seeds.

        Raises:
            trainer.errors.ConfigError: `task.generator` does not translate images, or changes their channels or size.
        """
        self._config = config
        generators, discriminators = (phase.networks for phase in self.phases)
        sections = dict.fromkeys(generators, config.generator) | dict.fromkeys(discriminators, config.discriminator)
        self.networks = nn.ModuleDict({name: registry.build(section) for name, section in sections.items()})
        translator: nn.Module = self.networks["G_AB"]
        if not isinstance(translator, Translator):
            raise ConfigError(
                f"task.generator: {registry.type_of(config.generator)} does not translate images to images"
            )
        if translator.in_channels != translator.out_channels or translator.scale != 1:
            raise ConfigError(
                f"task.generator translates {translator.in_channels} to {translator.out_channels} channels at scale "
                f"{translator.scale}: a cycle needs images of the same shape on both sides"
            )
        self._image = ImageSpec(None, translator.in_channels)
        self._loss: AdversarialLoss = registry.build(config.loss)
        self._pools = {domain: ImagePool(config.pool_size, global_size, seed, domain) for domain in DOMAINS}

    def data(self) -> DataSpec:
        """Return two unpaired domains of any size."""
        return DataSpec(dict.fromkeys(DOMAINS, self._image))

    def prepare(self, numbers: NDArray[np.int64], seed: int) -> dict[str, NDArray[Any]]:
        """Draw nothing: the losses need images alone."""
        return {}

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the optimiser of the two generators or of the two discriminators."""
        of_generators = networks == self.phases[0].networks
        return self._config.generator_optimizer if of_generators else self._config.discriminator_optimizer

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """Compute the losses of one player (equation 3, and the identity loss of section 5.2)."""
        return self._generator_losses(batch) if phase.name == "generator" else self._discriminator_losses(batch)

    def _generator_losses(self, batch: Batch) -> Losses:
        real_a, real_b = batch.images["A"], batch.images["B"]
        fake_b, *same_b = self._translate("G_AB", real_a, real_b)
        fake_a, *same_a = self._translate("G_BA", real_b, real_a)
        batch.generated.update(A=fake_a.detach(), B=fake_b.detach())
        on_a, on_b = self.networks["D_A"](fake_a).float(), self.networks["D_B"](fake_b).float()
        adversarial = self._loss.generator(on_a) + self._loss.generator(on_b)
        back_a, back_b = self.networks["G_BA"](fake_b).float(), self.networks["G_AB"](fake_a).float()
        cycle = l1_loss(back_a, real_a) + l1_loss(back_b, real_b)
        total = adversarial + self._config.cycle_weight * cycle
        logged = {"G loss": adversarial.detach(), "cycle": cycle.detach()}
        if same_a and same_b:
            identity = l1_loss(same_a[0].float(), real_a) + l1_loss(same_b[0].float(), real_b)
            total = total + self._config.identity_weight * identity
            logged["identity"] = identity.detach()
        return Losses(total, logged)

    def _discriminator_losses(self, batch: Batch) -> Losses:
        total = torch.zeros((), device=batch.images["A"].device)
        shares: dict[str, tuple[Tensor, Tensor]] = {}
        for domain in DOMAINS:
            fake = self._pools[domain].exchange(batch.generated[domain], batch.numbers)
            discriminator = self.networks[f"D_{domain}"]
            on_real, on_fake = discriminator(batch.images[domain]).float(), discriminator(fake).float()
            total = total + self._loss.discriminator(on_real, on_fake)
            shares[f"D_{domain}"] = realness(self._loss, on_real, on_fake)
        return Losses(total, {"D loss": total.detach()}, shares)

    def _translate(self, generator: str, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Translate `source` and, for the identity loss, `target` (images of the generator's own domain) together."""
        if not self._config.identity_weight:
            return (self.networks[generator](source),)
        both: tuple[Tensor, ...] = self.networks[generator](torch.cat([source, target])).chunk(2)
        return both

    def exports(self) -> dict[str, Export]:
        """Return both translators."""
        model = self._config.generator
        return {"G_AB": Export(model, source="A", target="B"), "G_BA": Export(model, source="B", target="A")}

    def generate(self, generators: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        """Translate the images of each domain into the other."""
        return {"A": generators["G_BA"](batch.images["B"]), "B": generators["G_AB"](batch.images["A"])}

    def state(self) -> dict[str, Tensor]:
        """Return the images of both pools."""
        return {f"pool_{d}.{key}": image for d, pool in self._pools.items() for key, image in pool.state().items()}

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """Restore the images of `slots` of both pools."""
        for domain, pool in self._pools.items():
            prefix = f"pool_{domain}."
            pool.load({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}, slots)

    def reseed(self, seed: int) -> None:
        """Draw from another seed which images both pools exchange."""
        for pool in self._pools.values():
            pool.reseed(seed)
