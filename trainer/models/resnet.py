"""CycleGAN's residual translator (Zhu et al. 2017, section 7.2, after Johnson et al. 2016)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section
from trainer.models.blur import BlurDown, BlurUp
from trainer.models.norm import Norm, norm_layer
from trainer.models.weights import init_normal
from trainer.registry import register


@register("model", "resnet_generator")
class ResnetGenerator(nn.Module):
    """Halves the image twice, applies residual blocks, and doubles it twice; fully convolutional.

    In the paper's notation the layers are c7s1-w, d2w, d4w, R4w (`blocks` times), u2w, uw, c7s1-out for width w.
    """

    class Config(Section):
        """The keys of the network.

        Attributes:
            width: the number of filters of the first layer.
            blocks: the number of residual blocks; the paper has 6 at 128 px and 9 at 256 px.
            downsampling: "strided" halves by convolutions of stride 2, as in the paper. "antialiased" halves by a
                convolution of stride 1 and a blur (Zhang 2019), as in CUT's generator (Park et al. 2020).
            upsampling: "transposed" doubles by transposed convolutions, as in the paper. "antialiased" doubles by a
                blur and a convolution.
        """

        in_channels: int = Field(default=3, gt=0)
        out_channels: int = Field(default=3, gt=0)
        width: int = Field(default=64, gt=0)
        blocks: int = Field(default=9, ge=0)
        norm: Norm = "instance"
        downsampling: Literal["strided", "antialiased"] = "strided"
        upsampling: Literal["transposed", "antialiased"] = "transposed"

    # Two layers halve the image, and the residual blocks' padding by reflection needs at least 2 x 2 values.
    size_multiple = 4
    minimum_size = 8
    scale = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.in_channels, self.out_channels = config.in_channels, config.out_channels
        width, norm = config.width, config.norm
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_normed(nn.Conv2d(config.in_channels, width, 7, bias=norm == "none"), width, norm),
            *_down(width, norm, config.downsampling == "antialiased"),
            *_down(width * 2, norm, config.downsampling == "antialiased"),
            *(_ResidualBlock(width * 4, norm) for _ in range(config.blocks)),
            *_up(width * 4, norm, config.upsampling == "antialiased"),
            *_up(width * 2, norm, config.upsampling == "antialiased"),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, config.out_channels, 7),
            nn.Tanh(),
        )
        init_normal(self)

    def forward(self, source: Tensor) -> Tensor:
        """Translate images, [b, in_channels, h, w] in -1..1, to [b, out_channels, h, w] in -1..1."""
        image: Tensor = self.layers(source)
        return image


class _ResidualBlock(nn.Module):
    """Computes x + f(x), where f is two 3 x 3 layers padded by reflection. No activation follows the sum."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(channels, channels, 3, bias=norm == "none"), channels, norm),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=norm == "none"),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, [b, channels, h, w]."""
        residual: Tensor = self.layers(x)
        return x + residual


def _down(channels: int, norm: Norm, antialiased: bool) -> tuple[nn.Module, ...]:
    """Return layers that map [b, channels, h, w] to [b, 2 channels, h / 2, w / 2]."""
    convolution = nn.Conv2d(channels, channels * 2, 3, 1 if antialiased else 2, 1, bias=norm == "none")
    layers = _normed(convolution, channels * 2, norm)
    return (*layers, BlurDown(channels * 2)) if antialiased else layers


def _up(channels: int, norm: Norm, antialiased: bool) -> tuple[nn.Module, ...]:
    """Return layers that map [b, channels, h, w] to [b, channels / 2, 2 h, 2 w]."""
    outputs, bias = channels // 2, norm == "none"
    if antialiased:
        return BlurUp(channels), *_normed(nn.Conv2d(channels, outputs, 3, 1, 1, bias=bias), outputs, norm)
    return _normed(nn.ConvTranspose2d(channels, outputs, 3, 2, 1, 1, bias=bias), outputs, norm)


def _normed(layer: nn.Module, channels: int, norm: Norm) -> tuple[nn.Module, ...]:
    return layer, norm_layer(norm, channels), nn.ReLU(inplace=True)
