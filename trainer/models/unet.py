"""pix2pix's translator with skip connections (Isola et al. 2017, section 6.1, after Ronneberger et al. 2015)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section
from trainer.models.norm import Norm, norm_layer
from trainer.models.weights import init_normal
from trainer.registry import register

_MOST_FILTERS = 8  # times the width
_DROPOUT_LAYERS = 3


@register("model", "unet_generator")
class UnetGenerator(nn.Module):
    """Halves the image `depth` times and doubles it as often; a decoder layer also sees the encoder's map of its size.

    All layers are 4 x 4 with stride 2. The encoder's first layer has no norm, as in the paper; nor has its innermost,
    whose map is 1 x 1 at the smallest legal size: there an instance norm, or a batch norm of one image, leaves zeros.
    """

    class Config(Section):
        """`width` is the number of filters of the first layer; the paper has depth 8, for 256 px.

        `dropout` drops half the values behind the decoder's first three layers while training, the paper's only noise;
        a network in evaluation mode has none.
        """

        in_channels: int = Field(default=3, gt=0)
        out_channels: int = Field(default=3, gt=0)
        width: int = Field(default=64, gt=0)
        depth: int = Field(default=8, ge=2, le=12)
        norm: Norm = "batch"
        dropout: bool = False

    scale = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.in_channels, self.out_channels = config.in_channels, config.out_channels
        self.size_multiple = self.minimum_size = 2**config.depth
        filters = [config.width * min(2**level, _MOST_FILTERS) for level in range(config.depth)]
        innermost = config.depth - 1
        self.down = nn.ModuleList([nn.Sequential(nn.Conv2d(config.in_channels, filters[0], 4, 2, 1))])
        for level in range(1, config.depth):
            norm = config.norm if level < innermost else "none"
            self.down.append(_encoder_layer(filters[level - 1], filters[level], norm))
        self.up = nn.ModuleList()  # from the innermost outwards
        for level in range(innermost, 0, -1):
            inputs = filters[level] * (1 if level == innermost else 2)
            dropped = config.dropout and innermost - level < _DROPOUT_LAYERS
            self.up.append(_decoder_layer(inputs, filters[level - 1], config.norm, dropped))
        last = nn.ConvTranspose2d(filters[0] * 2, config.out_channels, 4, 2, 1)
        self.up.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
        init_normal(self)

    def forward(self, source: Tensor) -> Tensor:
        """Translate images, [b, in_channels, h, w] in -1..1, to [b, out_channels, h, w] in -1..1."""
        maps = [source]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        features: Tensor = self.up[0](maps.pop())
        for layer in list(self.up)[1:]:
            features = layer(torch.cat([maps.pop(), features], 1))
        return features


def _encoder_layer(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """[b, inputs, h, w] to [b, outputs, h / 2, w / 2]."""
    convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=norm == "none")
    return nn.Sequential(nn.LeakyReLU(0.2), convolution, norm_layer(norm, outputs))


def _decoder_layer(inputs: int, outputs: int, norm: Norm, dropout: bool) -> nn.Sequential:
    """[b, inputs, h, w] to [b, outputs, 2 h, 2 w]."""
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=norm == "none")
    layer = nn.Sequential(nn.ReLU(), convolution, norm_layer(norm, outputs))
    return layer.append(nn.Dropout(0.5)) if dropout else layer
