"""The losses of each task in closed form, with networks of one parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer import registry
from trainer.config_files import find_config, load_config
from trainer.errors import ConfigError
from trainer.tasks.base import Batch, Losses, OptimizerSection, Phase, Task, only_trainable, trained_sets
from trainer.tasks.build import check_fit, data_spec, make_batch

U, V = 0.5, -0.25  # the grey of all images of A and of B
A, B, DA, DB = 1.5, -0.8, 0.7, 0.9  # the slopes of G_AB, G_BA, D_A, D_B
K, W = 1.3, 0.6  # the slope of D, and the grey that G generates


class Slope(nn.Module):
    """Multiplies x by a slope."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


class Judge(Slope):
    """Returns 2 x 2 equal logits: a slope times the image's mean."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * x.mean((1, 2, 3), keepdim=True)).expand(-1, 1, 2, 2)


class Painter(Slope):
    """Returns an image of one grey for any latent."""

    def forward(self, x: Tensor) -> Tensor:
        return self.slope.expand(len(x), 1, 4, 4)


MODELS: dict[str, dict[str, Any]] = {
    "gan": {
        "generator": {"type": "dcgan_generator", "latent_dim": 4, "size": 16, "width": 1},
        "discriminator": {"type": "dcgan_discriminator", "size": 16, "width": 1},
    },
    "cyclegan": {
        "generator": {"type": "resnet_generator", "width": 1, "blocks": 0},
        "discriminator": {"type": "patchgan_discriminator", "width": 1, "layers": 1},
    },
}


def _task(kind: str, networks: dict[str, nn.Module], **keys: Any) -> Task:
    section = registry.resolve("task", {"type": kind, **MODELS[kind], **keys})
    task: Task = registry.build(section, seed=0, global_size=2)
    task.networks = nn.ModuleDict(networks)
    return task


def _cyclegan(**keys: Any) -> Task:
    networks = {"G_AB": Slope(A), "G_BA": Slope(B), "D_A": Judge(DA), "D_B": Judge(DB)}
    return _task("cyclegan", networks, **{"pool_size": 0, **keys})


def _pair() -> Batch:
    return Batch(torch.arange(2), {"A": torch.full((2, 1, 4, 4), U), "B": torch.full((2, 1, 4, 4), V)})


def _run(task: Task, batch: Batch) -> dict[str, Losses]:
    return {phase.name: task.losses(phase, batch) for phase in task.phases}


ADVERSARIAL = (DA * B * V - 1) ** 2 + (DB * A * U - 1) ** 2
CYCLE = abs(B * A * U - U) + abs(A * B * V - V)
IDENTITY = abs(A * V - V) + abs(B * U - U)
JUDGED = ((DA * U - 1) ** 2 + (DA * B * V) ** 2) / 2 + ((DB * V - 1) ** 2 + (DB * A * U) ** 2) / 2


@pytest.mark.parametrize(("cycle", "identity"), [(10, 5), (3, 0), (0, 2)])
def test_cyclegan_losses_are_equation_3_and_the_identity_loss(cycle: float, identity: float) -> None:
    losses = _run(_cyclegan(cycle_weight=cycle, identity_weight=identity), _pair())
    expected = ADVERSARIAL + cycle * CYCLE + identity * IDENTITY
    assert losses["generator"].total.item() == pytest.approx(expected, rel=1e-6)
    logged = {name: float(value) for name, value in losses["generator"].logged.items()}
    assert logged == pytest.approx(
        {"G loss": ADVERSARIAL, "cycle": CYCLE} | ({"identity": IDENTITY} if identity else {})
    )
    assert losses["discriminator"].total.item() == pytest.approx(JUDGED, rel=1e-6)


def test_cyclegan_defaults_are_the_papers() -> None:
    losses = _run(_cyclegan(), _pair())
    assert losses["generator"].total.item() == pytest.approx(ADVERSARIAL + 10 * CYCLE + 5 * IDENTITY, rel=1e-6)
    optimizer = _cyclegan().optimizer(("G_AB", "G_BA"))
    assert (optimizer.lr, optimizer.betas, optimizer.decay_from, optimizer.clip_norm) == (2e-4, (0.5, 0.999), 0.5, None)


def test_cyclegan_gradients_are_those_of_the_closed_form() -> None:
    task = _cyclegan()
    batch = _pair()
    task.losses(task.phases[0], batch).total.backward()
    a, b = (torch.tensor(value, requires_grad=True) for value in (A, B))
    adversarial = (DA * b * V - 1) ** 2 + (DB * a * U - 1) ** 2
    cycle = (b * a * U - U).abs() + (a * b * V - V).abs()
    identity = (a * V - V).abs() + (b * U - U).abs()
    (adversarial + 10 * cycle + 5 * identity).backward()
    assert task.networks["G_AB"].slope.grad == pytest.approx(a.grad)
    assert task.networks["G_BA"].slope.grad == pytest.approx(b.grad)
    task.networks.zero_grad()
    task.losses(task.phases[1], batch).total.backward()
    assert task.networks["G_AB"].slope.grad is None, "the discriminators' loss must not reach the generators"
    assert task.networks["D_A"].slope.grad == pytest.approx((DA * U - 1) * U + DA * (B * V) ** 2)


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


GAN_LOSSES: dict[str, tuple[Callable[[float, float], float], Callable[[float], float]]] = {
    "non_saturating": (lambda real, fake: _softplus(-real) + _softplus(fake), lambda fake: _softplus(-fake)),
    "least_squares": (lambda real, fake: ((real - 1) ** 2 + fake**2) / 2, lambda fake: (fake - 1) ** 2),
    "hinge": (lambda real, fake: max(0, 1 - real) + max(0, 1 + fake), lambda fake: -fake),
}


@pytest.mark.parametrize("loss", registry.names("loss"))
def test_gan_losses_in_closed_form(loss: str) -> None:
    task = _task("gan", {"G": Painter(W), "D": Judge(K)}, loss={"type": loss})
    draws = {name: torch.from_numpy(array) for name, array in task.prepare(np.arange(2), 0).items()}
    losses = _run(task, Batch(torch.arange(2), {"image": torch.full((2, 1, 4, 4), U)}, draws=draws))
    discriminator, generator = GAN_LOSSES[loss]
    assert losses["discriminator"].total.item() == pytest.approx(discriminator(K * U, K * W), rel=1e-6)
    assert losses["generator"].total.item() == pytest.approx(generator(K * W), rel=1e-6)


@pytest.mark.parametrize("config", ["digits", "stripes"])
def test_phase_changes_nothing_of_the_other_player(config: str) -> None:
    run = load_config(find_config(config))
    task: Task = registry.build(run.task, seed=0, global_size=4)
    draw, spec = torch.Generator().manual_seed(0), data_spec(run)
    images = {
        domain: torch.rand(4, image.channels, 32, 32, generator=draw) * 2 - 1 for domain, image in spec.domains.items()
    }
    batch = make_batch(task, images, np.arange(4), seed=0, device=torch.device("cpu"))
    for phase in task.phases:
        others = [name for name in task.networks if name not in phase.networks]
        before = {
            name: {key: value.clone() for key, value in task.networks[name].state_dict().items()} for name in others
        }
        task.networks.zero_grad()
        with only_trainable(task.networks, phase.networks):
            task.losses(phase, batch).total.backward()
        for name in others:
            now = task.networks[name].state_dict()
            assert [key for key in now if not torch.equal(now[key], before[name][key])] == []
            assert [key for key, p in task.networks[name].named_parameters() if p.grad is not None] == []
        for name in phase.networks:
            assert all(p.grad is not None and p.grad.any() for p in task.networks[name].parameters())
        assert all(p.requires_grad for p in task.networks.parameters())


def test_only_trainable_keeps_frozen_parameters_frozen() -> None:
    networks = nn.ModuleDict(
        {"G": nn.Sequential(Slope(1.0), nn.BatchNorm2d(1)), "D": nn.Sequential(Slope(1.0), Slope(2.0))}
    )
    networks["D"][1].requires_grad_(False)
    with only_trainable(networks, ("G",)):
        assert [p.requires_grad for p in networks["D"].parameters()] == [False, False]
    with only_trainable(networks, ("D",)):
        assert [p.requires_grad for p in networks["D"].parameters()] == [True, False]
        assert not networks["G"][1].track_running_stats
    assert [p.requires_grad for p in networks["D"].parameters()] == [True, False]
    assert networks["G"][1].track_running_stats


def test_phases_may_share_a_set_of_networks_but_sets_may_not_overlap() -> None:
    shared = (Phase("d", ("D",)), Phase("g", ("G", "F")), Phase("r1", ("D",), interval=16))
    assert trained_sets(shared) == (("D",), ("G", "F"))
    with pytest.raises(ConfigError, match=r"phases train G, F and G, and G cannot have two optimizers"):
        trained_sets((Phase("g", ("G", "F")), Phase("path", ("G",))))


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 0.5), (0.9, 0.2), (1.0, 0.0)]
)
def test_learning_rate_is_constant_and_then_decays_linearly(progress: float, rate: float) -> None:
    assert OptimizerSection(lr=0.01, decay_from=0.5).rate(progress) == pytest.approx(0.01 * rate)
    assert OptimizerSection(lr=0.01).rate(progress) == 0.01


def test_check_fit_accepts_every_shipped_config() -> None:
    for name in ("digits", "stripes", "dcgan", "cyclegan-horse2zebra"):
        check_fit(load_config(find_config(name)))


def test_gan_draws_a_latent_for_each_phase_that_depends_on_seed_and_number_alone() -> None:
    task: Task = registry.build(load_config(find_config("digits")).task, seed=5, global_size=4)
    whole = task.prepare(np.arange(10), 3)
    assert whole.keys() == {"generator_latent", "discriminator_latent"}
    assert not np.array_equal(whole["generator_latent"], whole["discriminator_latent"])
    part, other = task.prepare(np.arange(4, 7), 3), task.prepare(np.arange(10), 4)
    for name, latents in whole.items():
        assert latents.dtype == np.float32
        np.testing.assert_array_equal(part[name], latents[4:7])
        assert not np.array_equal(other[name], latents)


def test_gan_generates_the_decoded_generator_latents() -> None:
    task: Task = registry.build(load_config(find_config("digits")).task, seed=0, global_size=4)
    task.networks.eval()
    batch = make_batch(task, {}, np.arange(3), seed=7, device=torch.device("cpu"))
    with torch.no_grad():
        expected = task.networks["G"](batch.draws["generator_latent"])
        assert torch.equal(task.generate(task.networks, batch)["image"], expected)


def test_cyclegan_generates_both_translations() -> None:
    generated = _cyclegan().generate(_cyclegan().networks, _pair())
    assert generated["B"][0, 0, 0, 0].item() == pytest.approx(A * U)
    assert generated["A"][0, 0, 0, 0].item() == pytest.approx(B * V)


def test_cyclegan_logs_the_realness_of_each_discriminator() -> None:
    realness = _run(_cyclegan(), _pair())["discriminator"].realness
    assert {name: tuple(map(float, pair)) for name, pair in realness.items()} == {
        "D_A": (pytest.approx(DA * U), pytest.approx(max(0, DA * B * V))),
        "D_B": (pytest.approx(max(0, DB * V)), pytest.approx(DB * A * U)),
    }
