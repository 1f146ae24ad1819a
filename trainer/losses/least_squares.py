"""The least-squares loss of CycleGAN (Mao et al. 2017, equation 2 with a = 0, b = c = 1)."""

from __future__ import annotations

from torch import Tensor

from trainer.config import Section
from trainer.registry import register


@register("loss", "least_squares")
class LeastSquares:
    """D aims at 1 for real and 0 for generated images, G at 1. D's loss is halved (Zhu et al. 2017, section 4)."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config) -> None: ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return (mean((real − 1)²) + mean(fake²)) / 2; 0.25 if every logit is 0.5."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor) -> Tensor:
        """Return mean((fake − 1)²); 0.25 if every logit is 0.5."""
        return (fake - 1).square().mean()

    def real_probability(self, logits: Tensor) -> Tensor:
        """Return the logits within 0..1: the optimal discriminator's output is the probability (Mao et al. 2017)."""
        return logits.clamp(0, 1)
