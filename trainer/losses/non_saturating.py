"""The non-saturating loss (Goodfellow et al. 2014, section 3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from trainer.config import Section
from trainer.registry import register


@register("loss", "non_saturating")
class NonSaturating:
    """D minimises −log D(x) − log(1 − D(G(z))), G minimises −log D(G(z)), with D = sigmoid(logits)."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config) -> None: ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return mean(softplus(−real)) + mean(softplus(fake)); 2 log 2 if every logit is 0."""
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Return mean(softplus(−fake)); log 2 if every logit is 0."""
        return softplus(-fake).mean()

    def real_probability(self, logits: Tensor) -> Tensor:
        """Return the sigmoid of the logits."""
        return logits.sigmoid()
