"""The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from trainer.config import Section
from trainer.registry import register


@register("loss", "hinge")
class Hinge:
    """D separates real from made images by a margin of 1 on each side; G raises the logits of made ones."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config) -> None: ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """2 when every logit is 0."""
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """0 when every logit is 0."""
        return -fake.mean()

    def real_probability(self, logits: Tensor) -> Tensor:
        """The position between the margins: 0 at −1, 0.5 at 0, 1 at 1."""
        return (logits.clamp(-1, 1) + 1) / 2
