"""What an adversarial loss gives a task."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AdversarialLoss(Protocol):
    """Logits may have any shape; every loss is their mean, a scalar."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises, given its logits for real and for made images."""

    def generator(self, fake: Tensor) -> Tensor:
        """What the generator minimises, given the discriminator's logits for made images."""

    def belief(self, logits: Tensor) -> Tensor:
        """How real the discriminator thinks images are, in 0..1; 0.5 means that it cannot tell."""
