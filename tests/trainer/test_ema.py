"""The moving average of weights, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.ema import Ema


def _networks(value: float, batches: int) -> nn.ModuleDict:
    """A batch norm whose parameters and running statistics are all `value`, and its counter `batches`."""
    norm = nn.BatchNorm2d(2)
    state = {name: torch.full_like(tensor, value) for name, tensor in norm.state_dict().items()}
    norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(batches)})
    return nn.ModuleDict({"generator": norm})


def _follow(networks: nn.ModuleDict, value: float, batches: int) -> None:
    networks.load_state_dict(_networks(value, batches).state_dict())


def test_ema_of_weights_and_statistics_in_closed_form() -> None:
    networks = _networks(1.0, 3)
    ema = Ema(networks, half_life_images=100)
    expected = 1.0
    for step, value in enumerate((5.0, -2.0, 0.5), start=1):
        _follow(networks, value, 3 + step)
        ema.update(images=20, seen=10_000 + 20 * step)
        kept = 0.5 ** (20 / 100)
        expected = kept * expected + (1 - kept) * value
    state = ema.networks.state_dict()
    assert state.pop("generator.num_batches_tracked").equal(torch.tensor(6))
    assert set(state) == {f"generator.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert torch.stack(list(state.values())).flatten().tolist() == pytest.approx([expected] * 8, rel=1e-6)


@pytest.mark.parametrize(("images", "seen", "kept"), [(100, 10_000, 0.5), (8, 80, 0.5), (16, 80, 0.25), (8, 0, 0.0)])
def test_ema_influence_halves_every_half_life_and_faster_early_in_the_run(images: int, seen: int, kept: float) -> None:
    networks = _networks(0.0, 0)
    ema = Ema(networks, half_life_images=100)
    _follow(networks, 1.0, 0)
    ema.update(images, seen)
    assert ema.networks.state_dict()["generator.weight"].tolist() == pytest.approx([1 - kept] * 2)


def test_ema_networks_are_frozen_copies_in_evaluation_mode() -> None:
    networks = _networks(1.0, 0)
    ema = Ema(networks, half_life_images=100)
    _follow(networks, 2.0, 5)
    assert ema.networks.state_dict()["generator.weight"].tolist() == [1.0, 1.0]
    assert [module.training for module in ema.networks.modules()] == [False, False]
    assert [parameter.requires_grad for parameter in ema.networks.parameters()] == [False, False]
    ema.update(images=1, seen=1000)
    assert all(parameter.requires_grad for parameter in networks.parameters())
    assert networks.training
    assert networks.state_dict()["generator.weight"].tolist() == [2.0, 2.0]
