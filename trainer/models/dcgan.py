"""DCGAN's generator and discriminator (Radford et al. 2016, section 3 and figure 1)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.config import Section
from trainer.models.norm import Norm, norm_layer
from trainer.models.weights import init_normal
from trainer.registry import register

Size = Literal[16, 32, 64, 128]


@register("model", "dcgan_generator")
class DcganGenerator(nn.Module):
    """Turns a latent into 4 x 4 features and doubles their size up to the image's, halving the filters each time."""

    class Config(Section):
        """`width` is the number of filters of the last hidden layer. The first layer has `width * size / 8`."""

        latent_dim: int = Field(default=100, gt=0)
        channels: int = Field(default=3, gt=0)
        size: Size = 64
        width: int = Field(default=64, gt=0)
        norm: Norm = "batch"

    classes: int | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.latent_dim, self.channels, self.size = config.latent_dim, config.channels, config.size
        filters = config.width * config.size // 8
        bias = config.norm == "none"
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(config.latent_dim, filters, 4, 1, 0, bias=bias),
            norm_layer(config.norm, filters),
            nn.ReLU(inplace=True),
        ]
        while filters > config.width:
            layers += [
                nn.ConvTranspose2d(filters, filters // 2, 4, 2, 1, bias=bias),
                norm_layer(config.norm, filters // 2),
                nn.ReLU(inplace=True),
            ]
            filters //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(filters, config.channels, 4, 2, 1), nn.Tanh())
        init_normal(self)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode latents, [b, latent_dim], to images, [b, channels, size, size] in -1..1."""
        image: Tensor = self.layers(latent[:, :, None, None])
        return image


@register("model", "dcgan_discriminator")
class DcganDiscriminator(nn.Module):
    """Halves the image down to 4 x 4, doubling the filters each time, and sums up the whole map in one logit."""

    class Config(Section):
        """`width` is the number of filters of the first layer. `norm` follows every other hidden layer."""

        channels: int = Field(default=3, gt=0)
        size: Size = 64
        width: int = Field(default=64, gt=0)
        norm: Norm = "batch"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels, self.size = config.channels, config.size
        filters, size = config.width, config.size // 2
        layers: list[nn.Module] = [nn.Conv2d(config.channels, filters, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        while size > 4:
            layers += [
                nn.Conv2d(filters, filters * 2, 4, 2, 1, bias=config.norm == "none"),
                norm_layer(config.norm, filters * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            filters, size = filters * 2, size // 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(filters, 1, 4, 1, 0))
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [b] for images [b, channels, size, size] in -1..1: the larger, the more real."""
        logits: Tensor = self.layers(image)  # [b, 1, 1, 1]
        return logits.flatten()
