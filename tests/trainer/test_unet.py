"""The U-Net of pix2pix, and the anti-aliased variants of the residual generator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.networks import NORMS, build
from trainer.models.base import Generator, Translator
from trainer.models.blur import BlurDown, BlurUp


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("depth", "shape"), [(2, (4, 12)), (3, (8, 8)), (5, (64, 32))])
def test_unet_is_fully_convolutional(depth: int, shape: tuple[int, int], norm: str) -> None:
    network = build(type="unet_generator", in_channels=1, out_channels=2, width=2, depth=depth, norm=norm)
    assert isinstance(network, Translator)
    assert not isinstance(network, Generator)
    image = network(torch.randn(2, 1, *shape))
    assert image.shape == (2, 2, *shape)
    assert image.abs().max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_unet_minimum_size_is_exact_and_its_innermost_features_are_not_zero(norm: str) -> None:
    network = build(type="unet_generator", width=4, depth=3, norm=norm)
    assert isinstance(network, Translator)
    assert network.minimum_size == network.size_multiple == 8
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight)
    seen: list[torch.Tensor] = []
    network.down[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.randn(1, 3, 8, 8))
    assert seen[0].shape == (1, 16, 1, 1)
    assert seen[0].abs().min() > 1e-4
    with pytest.raises((RuntimeError, ValueError), match=r"[Kk]ernel size|input size|spatial element"):
        network(torch.zeros(1, 3, 4, 4))


def test_unet_of_the_paper_has_its_filters_and_the_usual_parameter_count() -> None:
    network = build(type="unet_generator")
    down = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.Conv2d)]
    up = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert down == [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    assert up == [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    # 54.414 M is the count usually reported; ours has biases in the two layers without a norm.
    count = sum(p.numel() for p in network.parameters()) - 64 - 512
    assert round(count / 1e6, 3) == 54.414


def test_unet_dropout_follows_three_layers_and_only_while_training() -> None:
    network = build(type="unet_generator", width=2, depth=6, dropout=True)
    layers = [any(isinstance(m, nn.Dropout) for m in layer) for layer in network.up]  # type: ignore[union-attr]
    assert layers == [True, True, True, False, False, False]
    image = torch.randn(2, 3, 64, 64)
    assert not network(image).equal(network(image))
    network.eval()
    assert network(image).equal(network(image))
    without = build(type="unet_generator", width=2, depth=6)
    assert list(without.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "section",
    [
        {"type": "unet_generator", "width": 4, "depth": 4},
        {"type": "resnet_generator", "width": 4, "downsampling": "antialiased", "upsampling": "antialiased"},
    ],
    ids=lambda section: str(section["type"]),
)
def test_unet_has_no_parameter_without_gradient(section: dict[str, object], norm: str) -> None:
    network = build(**section, norm=norm)
    image = torch.randn(4, 3, 64, 64)
    (network(image).square().mean() + network(image).mean()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9] == []


def test_blurs_keep_constant_images_and_remove_the_finest_pattern() -> None:
    plane = torch.full((2, 3, 6, 4), 0.7)
    torch.testing.assert_close(BlurDown(3)(plane), torch.full((2, 3, 3, 2), 0.7))
    torch.testing.assert_close(BlurUp(3)(plane), torch.full((2, 3, 12, 8), 0.7))
    board = (torch.arange(6)[:, None] + torch.arange(6)).remainder(2).float().expand(1, 3, 6, 6)
    torch.testing.assert_close(BlurDown(3)(board), torch.full((1, 3, 3, 3), 0.5))


def test_blur_up_interpolates_between_neighbours() -> None:
    row = torch.tensor([0.0, 4.0, 8.0]).expand(1, 1, 3, 3)
    torch.testing.assert_close(BlurUp(1)(row)[0, 0, 2], torch.tensor([0.0, 1.0, 3.0, 5.0, 7.0, 8.0]))


@pytest.mark.parametrize("downsampling", ["strided", "antialiased"])
@pytest.mark.parametrize("upsampling", ["transposed", "antialiased"])
def test_resnet_variants_have_the_same_tensors_and_sizes(downsampling: str, upsampling: str) -> None:
    network = build(type="resnet_generator", width=2, blocks=1, downsampling=downsampling, upsampling=upsampling)
    assert isinstance(network, Translator)
    size = network.minimum_size
    for shape in ((size, size), (size + network.size_multiple, 32)):
        assert network(torch.randn(1, 3, *shape)).shape == (1, 3, *shape)
    assert not any("kernel" in key for key in network.state_dict())
