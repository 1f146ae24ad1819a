"""The protocol of adversarial losses."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AdversarialLoss(Protocol):
    """The objectives of a discriminator and of a generator, as functions of the discriminator's logits.

    Logits may have any shape. Each loss is a scalar: the mean over the logits.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return what the discriminator minimises, from its logits of real and of generated images."""

    def generator(self, fake: Tensor) -> Tensor:
        """Return what the generator minimises, from the discriminator's logits of generated images."""

    def real_probability(self, logits: Tensor) -> Tensor:
        """Map each logit to the probability, 0..1, that the discriminator assigns to "real"; 0.5 is undecided."""


def realness(loss: AdversarialLoss, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `real_probability` of the logits of real and of generated images: two detached scalars."""
    return loss.real_probability(real.detach()).mean(), loss.real_probability(fake.detach()).mean()
