"""Unpaired image-to-image translation held together by cycle consistency (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from trainer import registry
from trainer.config import Resume, Section
from trainer.errors import ConfigError
from trainer.image_pool import ImagePool
from trainer.losses.base import AdversarialLoss
from trainer.losses.least_squares import LeastSquares
from trainer.models.base import Translator
from trainer.registry import LossComponent, ModelComponent, register
from trainer.tasks.base import Batch, Losses, OptimizerSection, Phase

CYCLEGAN_OPTIMIZER = OptimizerSection(decay_from=0.5)


@register("task", "cyclegan")
class CycleGan:
    """Four networks: G_AB and G_BA translate, D_A and D_B judge. The defaults are the paper's (section 4)."""

    class Config(Section):
        """`generator` and `discriminator` describe one network each; both directions use the same.

        `identity_weight` 0 leaves the identity loss out (it needs domains with equal channels).
        `pool_size` counts images over the whole global batch; 0 shows the newest images only.
        """

        generator: ModelComponent
        discriminator: ModelComponent
        loss: Annotated[LossComponent, Resume.MAY_CHANGE] = LeastSquares.Config()
        cycle_weight: Annotated[float, Field(ge=0), Resume.MAY_CHANGE] = 10.0
        identity_weight: Annotated[float, Field(ge=0), Resume.MAY_CHANGE] = 5.0
        pool_size: int = Field(default=50, ge=0)
        generator_optimizer: OptimizerSection = CYCLEGAN_OPTIMIZER
        discriminator_optimizer: OptimizerSection = CYCLEGAN_OPTIMIZER

    domains = ("A", "B")
    phases = (Phase("generator", ("G_AB", "G_BA")), Phase("discriminator", ("D_A", "D_B")))
    generators: Mapping[str, str | None] = MappingProxyType({"G_AB": "AtoB", "G_BA": "BtoA"})

    def __init__(self, config: Config, *, seed: int, global_size: int) -> None:
        """Build the four networks; their weights come from torch's generator, which the caller seeds.

        Raises:
            trainer.errors.ConfigError: the model given as generator does not translate images.
        """
        self.config = config
        makers = dict.fromkeys(self.generators, config.generator) | dict.fromkeys(("D_A", "D_B"), config.discriminator)
        self.networks = nn.ModuleDict({name: registry.build(section) for name, section in makers.items()})
        if not isinstance(self.networks["G_AB"], Translator):
            raise ConfigError(f"task.generator: {config.generator.component_type} does not translate images to images")
        self._loss: AdversarialLoss = registry.build(config.loss)
        optimizers = (config.generator_optimizer, config.discriminator_optimizer)
        self._optimizers = {phase.networks: section for phase, section in zip(self.phases, optimizers, strict=True)}
        self._pools = {domain: ImagePool(config.pool_size, global_size, seed, domain) for domain in self.domains}

    def optimizer(self, networks: tuple[str, ...]) -> OptimizerSection:
        """Return the optimiser of the two generators or of the two discriminators."""
        return self._optimizers[networks]

    def losses(self, phase: Phase, batch: Batch) -> Losses:
        """One player's objective (equation 3, with the identity loss of section 5.2)."""
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
        total = adversarial + self.config.cycle_weight * cycle
        logged = {"G loss": adversarial.detach(), "cycle": cycle.detach()}
        if same_a and same_b:
            identity = l1_loss(same_a[0].float(), real_a) + l1_loss(same_b[0].float(), real_b)
            total = total + self.config.identity_weight * identity
            logged["identity"] = identity.detach()
        return Losses(total, logged)

    def _discriminator_losses(self, batch: Batch) -> Losses:
        total = torch.zeros((), device=batch.images["A"].device)
        logged: dict[str, Tensor] = {}
        for domain in self.domains:
            fake = self._pools[domain].exchange(batch.generated[domain], batch.numbers)
            on_real = self.networks[f"D_{domain}"](batch.images[domain]).float()
            on_fake = self.networks[f"D_{domain}"](fake).float()
            total = total + self._loss.discriminator(on_real, on_fake)
            logged[f"D_{domain}(real)"] = self._loss.belief(on_real.detach()).mean()
            logged[f"D_{domain}(fake)"] = self._loss.belief(on_fake.detach()).mean()
        return Losses(total, {"D loss": total.detach(), **logged})

    def _translate(self, generator: str, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The translation of `source` and, for the identity loss, of `target` (already there), in one pass."""
        if not self.config.identity_weight:
            return (self.networks[generator](source),)
        both: tuple[Tensor, ...] = self.networks[generator](torch.cat([source, target])).chunk(2)
        return both

    def samples(self, generators: nn.ModuleDict, images: dict[str, Tensor], count: int) -> Tensor:
        """Each row: a, G_AB(a), G_BA(G_AB(a)), and b, G_BA(b), G_AB(G_BA(b))."""
        count = min(count, len(images["A"]), len(images["B"]))
        a, b = images["A"][:count], images["B"][:count]
        to_b, to_a = generators["G_AB"], generators["G_BA"]
        fake_b, fake_a = to_b(a), to_a(b)
        return torch.stack([a, fake_b, to_a(fake_b), b, fake_a, to_b(fake_a)], dim=1).flatten(0, 1)

    def made(self, generators: nn.ModuleDict, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both translations."""
        return {"A": generators["G_BA"](images["B"]), "B": generators["G_AB"](images["A"])}

    def columns(self) -> int:
        """Six images a row."""
        return 6

    def state(self) -> dict[str, Tensor]:
        """The pools' images."""
        return {f"pool_{d}.{key}": image for d, pool in self._pools.items() for key, image in pool.state().items()}

    def load_state(self, state: Mapping[str, Tensor], slots: Collection[int]) -> None:
        """The pools' images of `slots`."""
        for domain, pool in self._pools.items():
            prefix = f"pool_{domain}."
            pool.load({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}, slots)

    def reseed(self, seed: int) -> None:
        """Draw the pools' swaps from another seed."""
        for pool in self._pools.values():
            pool.reseed(seed)
