"""Losses at points where their values are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from trainer import registry

# Logits with which the discriminator says "cannot tell", and the losses there.
CANNOT_TELL = {
    "non_saturating": (0.0, 2 * math.log(2), math.log(2)),
    "least_squares": (0.5, 0.25, 0.25),
    "hinge": (0.0, 2.0, 0.0),
}


@pytest.mark.parametrize("name", registry.names("loss"))
def test_losses_at_an_undecided_discriminator(name: str) -> None:
    loss = registry.build(registry.resolve("loss", {"type": name}))
    logit, discriminator, generator = CANNOT_TELL[name]
    logits = torch.full((4, 3), logit)
    assert loss.discriminator(logits, logits).item() == pytest.approx(discriminator)
    assert loss.generator(logits).item() == pytest.approx(generator)
    assert loss.real_probability(logits).mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("non_saturating", math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-1.0)), math.log1p(math.exp(1.0))),
        ("least_squares", (1.0 + 1.0) / 2, 4.0),
        ("hinge", 0.0, 1.0),
    ],
)
def test_losses_at_hand_computed_values(name: str, discriminator: float, generator: float) -> None:
    loss = registry.build(registry.resolve("loss", {"type": name}))
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    assert loss.discriminator(real, fake).item() == pytest.approx(discriminator)
    assert loss.generator(fake).item() == pytest.approx(generator)
