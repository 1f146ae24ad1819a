"""Networks for tests, built as a config would."""

from __future__ import annotations

import torch
from torch import nn

from trainer import registry

NORMS = ("batch", "instance", "none")


def build(**section: object) -> nn.Module:
    """Return the network of a `{type, …}` section, with seeded weights."""
    torch.manual_seed(0)
    network = registry.build(registry.resolve("model", section))
    assert isinstance(network, nn.Module)
    return network
