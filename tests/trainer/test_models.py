from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.networks import NORMS, build
from trainer import registry
from trainer.errors import ConfigError
from trainer.models.base import Generator, Translator


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_dcgan_shapes(size: int, norm: str) -> None:
    generator = build(type="dcgan_generator", latent_dim=5, channels=2, size=size, width=2, norm=norm)
    discriminator = build(type="dcgan_discriminator", channels=2, size=size, width=2, norm=norm)
    assert isinstance(generator, Generator)
    assert not isinstance(generator, Translator)
    image = generator(torch.randn(3, 5))
    assert image.shape == (3, 2, size, size)
    assert image.abs().max() <= 1
    assert discriminator(image).shape == (3,)


def test_dcgan_refuses_a_size_that_is_no_power_of_two() -> None:
    with pytest.raises(ConfigError, match="size = 48"):
        build(type="dcgan_generator", size=48)


def test_dcgan_of_the_paper_has_its_filters() -> None:
    convolutions = [m for m in build(type="dcgan_generator").modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (100, 512), (512, 256), (256, 128), (128, 64), (64, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (36, 12)])
def test_resnet_is_fully_convolutional(shape: tuple[int, int], norm: str) -> None:
    network = build(type="resnet_generator", in_channels=3, out_channels=1, width=2, blocks=1, norm=norm)
    assert isinstance(network, Translator)
    assert not isinstance(network, Generator)
    image = network(torch.randn(2, 3, *shape))
    assert image.shape == (2, 1, *shape)
    assert image.abs().max() <= 1


def test_resnet_minimum_size_is_exact() -> None:
    network = build(type="resnet_generator", width=2, blocks=1, norm="none")
    assert isinstance(network, Translator)
    size = network.minimum_size
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 3, size, size)
    below = size - network.size_multiple
    with pytest.raises(RuntimeError, match="adding size"):
        network(torch.zeros(1, 3, below, below))


def test_networks_of_the_papers_have_the_published_parameter_counts() -> None:
    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    # 11.378 M and 2.765 M are the counts usually reported; ours lack the biases that an instance norm cancels.
    cancelled = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert count(build(type="resnet_generator")) == 11_378_179 - cancelled
    assert count(build(type="patchgan_discriminator")) == 2_764_737 - (128 + 256 + 512)


@pytest.mark.parametrize(("layers", "patch", "smallest"), [(1, 16, 6), (2, 34, 12), (3, 70, 24)])
def test_patchgan_patch_and_smallest_image(layers: int, patch: int, smallest: int) -> None:
    network = build(type="patchgan_discriminator", in_channels=1, width=2, layers=layers, norm="none")
    assert network(torch.zeros(2, 1, smallest, smallest)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, smallest - 1, smallest - 1))
    image = torch.zeros(1, 1, 160, 160, requires_grad=True)
    logits = network(image)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == patch


# Other tests register models of their own.
SHIPPED = [n for n in registry.names("model") if registry.component("model", n).__module__.startswith("trainer.")]
# At its full depth gradients vanish without a norm.
KEYS = {"unet_generator": {"depth": 3}}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SHIPPED)
def test_networks_have_no_parameter_without_gradient(name: str, norm: str) -> None:
    network = build(type=name, width=4, norm=norm, **KEYS.get(name, {}))
    inputs = torch.randn(4, 100) if name == "dcgan_generator" else torch.randn(4, 3, 64, 64)
    (network(inputs).square().mean() + network(inputs).mean()).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert idle == []


def test_initial_weights_follow_the_papers_and_the_callers_seed() -> None:
    first, again = build(type="resnet_generator"), build(type="resnet_generator")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    weights = torch.cat([m.weight.flatten() for m in first.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)
    scales = torch.cat([m.weight for m in build(type="dcgan_generator").modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert scales.mean().item() == pytest.approx(1, abs=0.01)
