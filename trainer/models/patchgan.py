"""PatchGAN's discriminator (Isola et al. 2017, section 3.2.2; Zhu et al. 2017, section 7.2)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section
from trainer.models.norm import Norm, norm_layer
from trainer.models.weights import init_normal
from trainer.registry import register

_MOST_FILTERS = 8
"""The number of filters doubles from layer to layer, up to this multiple of the width."""


@register("model", "patchgan_discriminator")
class PatchganDiscriminator(nn.Module):
    """Computes one logit for each of many overlapping patches of the image.

    The network has `layers` convolutions of stride 2 and two of stride 1, all 4 x 4.

    | layers | patch (pixels) | smallest image |
    |---|---|---|
    | 1 | 16 x 16 | 6 x 6 |
    | 2 | 34 x 34 | 12 x 12 |
    | 3 | 70 x 70 | 24 x 24 |

    Patches extend over the border, which is padded with zeros.
    """

    class Config(Section):
        """`width` is the number of filters of the first layer. `norm` follows every other hidden layer."""

        in_channels: int = Field(default=3, gt=0)
        width: int = Field(default=64, gt=0)
        layers: int = Field(default=3, ge=1, le=6)
        norm: Norm = "instance"

    def __init__(self, config: Config) -> None:
        super().__init__()
        filters = config.width
        stack: list[nn.Module] = [nn.Conv2d(config.in_channels, filters, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for index in range(1, config.layers + 1):
            wider = config.width * min(2**index, _MOST_FILTERS)
            stride = 2 if index < config.layers else 1
            stack += [
                nn.Conv2d(filters, wider, 4, stride, 1, bias=config.norm == "none"),
                norm_layer(config.norm, wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            filters = wider
        self.layers = nn.Sequential(*stack, nn.Conv2d(filters, 1, 4, 1, 1))
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [b, 1, h', w'] for images [b, in_channels, h, w] in -1..1: the larger, the more real."""
        logits: Tensor = self.layers(image)
        return logits
