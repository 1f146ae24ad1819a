"""The protocols of the networks that leave a run: generators and translators."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """Decodes latents, float32 [b, latent_dim], to images, float32 [b, channels, size, size] in -1..1.

    A conditional generator has a number of `classes` and is called as `network(latent, label)`, with labels int64 [b]
    in 0..classes - 1. For other generators `classes` is None, and the call is `network(latent)`.
    """

    latent_dim: int
    channels: int
    size: int
    classes: int | None

    def __call__(self, *inputs: Tensor) -> Tensor: ...


@runtime_checkable
class Translator(Protocol):
    """Turns images, float32 [b, in_channels, h, w] in -1..1, into [b, out_channels, h * scale, w * scale] in -1..1.

    `h` and `w` must be multiples of `size_multiple` and at least `minimum_size`. `scale` is 1, or more for
    super-resolution.
    """

    in_channels: int
    out_channels: int
    size_multiple: int
    minimum_size: int
    scale: int

    def __call__(self, source: Tensor) -> Tensor: ...
