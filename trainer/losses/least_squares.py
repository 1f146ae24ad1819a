"""The least-squares loss (Mao et al. 2017, equation 2 with a = 0, b = c = 1), CycleGAN's choice."""

from __future__ import annotations

from torch import Tensor

from trainer.config import Section
from trainer.registry import register


@register("loss", "least_squares")
class LeastSquares:
    """D is drawn to 1 on real and to 0 on made images; its loss is halved, as in CycleGAN (section 4)."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config) -> None: ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """0.25 when the discriminator says 0.5 of everything."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor) -> Tensor:
        """0.25 when the discriminator says 0.5 of everything."""
        return (fake - 1).square().mean()

    def real_probability(self, logits: Tensor) -> Tensor:
        """The best discriminator's output is itself p(real) / (p(real) + p(made))."""
        return logits.clamp(0, 1)
