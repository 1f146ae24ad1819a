"""The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from trainer.config import Section
from trainer.registry import register


@register("loss", "hinge")
class Hinge:
    """D pushes real logits above 1 and generated ones below −1; G raises the logits of generated images."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config) -> None: ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return mean(max(0, 1 − real)) + mean(max(0, 1 + fake)); 2 if every logit is 0."""
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Return −mean(fake); 0 if every logit is 0."""
        return -fake.mean()

    def real_probability(self, logits: Tensor) -> Tensor:
        """Return the position between the margins: 0 at −1, 0.5 at 0, 1 at 1."""
        return (logits.clamp(-1, 1) + 1) / 2
