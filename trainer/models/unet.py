"""pix2pix's U-Net translator (Isola et al. 2017, sections 3.2.1 and 6.1.1, after Ronneberger et al. 2015)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section
from trainer.models.norm import Norm, norm_layer
from trainer.models.weights import init_normal
from trainer.registry import register

_MOST_FILTERS = 8
"""The number of filters doubles from layer to layer, up to this multiple of the width."""
_DROPOUT_LAYERS = 3
"""The decoder's first layers, so many, have the dropout."""


@register("model", "unet_generator")
class UnetGenerator(nn.Module):
    """Halves the image `depth` times and doubles it as often, with skip connections.

    Each decoder layer gets the features of the layer before and, beside them, the encoder's features of the same size.
    All layers are 4 x 4 with stride 2. The encoder's first layer has no norm, as in the paper. Its innermost layer has
    none either: its features are 1 x 1 at the smallest legal size, where an instance norm, or a batch norm over one
    image, returns zeros.
    """

    class Config(Section):
        """The keys of the network.

        Attributes:
            width: the number of filters of the first layer.
            depth: the number of halvings; the paper has 8, for 256 px.
            dropout: drop half of the values after the decoder's first three layers while training. In the paper this is
                the only noise. A network in evaluation mode has no dropout.
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
        self.up = nn.ModuleList()  # the innermost layer comes first
        for level in range(innermost, 0, -1):
            inputs = filters[level] * (1 if level == innermost else 2)
            dropped = config.dropout and innermost - level < _DROPOUT_LAYERS
            self.up.append(_decoder_layer(inputs, filters[level - 1], config.norm, dropped))
        last = nn.ConvTranspose2d(filters[0] * 2, config.out_channels, 4, 2, 1)
        self.up.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
        init_normal(self)

    def forward(self, source: Tensor) -> Tensor:
        """Translate images, [b, in_channels, h, w] in -1..1, to [b, out_channels, h, w] in -1..1."""
        encoded = [source]
        for layer in self.down:
            encoded.append(layer(encoded[-1]))
        features: Tensor = self.up[0](encoded.pop())
        for layer in list(self.up)[1:]:
            features = layer(torch.cat([encoded.pop(), features], 1))
        return features


def _encoder_layer(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Return a layer that maps [b, inputs, h, w] to [b, outputs, h / 2, w / 2]."""
    convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=norm == "none")
    return nn.Sequential(nn.LeakyReLU(0.2), convolution, norm_layer(norm, outputs))


def _decoder_layer(inputs: int, outputs: int, norm: Norm, dropout: bool) -> nn.Sequential:
    """Return a layer that maps [b, inputs, h, w] to [b, outputs, 2 h, 2 w]."""
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=norm == "none")
    layer = nn.Sequential(nn.ReLU(), convolution, norm_layer(norm, outputs))
    return layer.append(nn.Dropout(0.5)) if dropout else layer
