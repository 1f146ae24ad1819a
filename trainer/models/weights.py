"""Draws the initial weights of networks."""

from __future__ import annotations

from torch import nn


def init_normal(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and scales of batch norms from N(1, 0.02); set biases to 0.

    The second number is the standard deviation (Radford et al. 2016, section 4; Zhu et al. 2017, section 7.1). The
    draws come from torch's global generator, in the order of `network.modules()`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
