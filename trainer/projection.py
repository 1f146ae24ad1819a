"""Latent projection: the latent of a generator whose image is nearest to a given image, found by optimisation.

See Lipton & Tripathi 2017, "Precise recovery of latent vectors from generative adversarial networks", and Karras et al.
2020, "Analyzing and improving the image quality of StyleGAN", appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.tensors import denormalize, to_tensor
from trainer.errors import ConfigError, DataError
from trainer.models.base import Generator
from zorse_common.random import normal

Images = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Is called after each step with the number of steps done and of all steps."""

_RATE = 0.2
_WARM_UP, _COOL_DOWN = 0.05, 0.25  # fractions of the steps
_NORM_WEIGHT = 0.1
_MOST_ROWS = 128


@dataclass(frozen=True)
class ProjectionSettings:
    """How the search goes: `steps` steps of Adam from each of `starts` random latents, which `seed` determines."""

    starts: int = 8
    steps: int = 300
    seed: int = 0


@dataclass(frozen=True)
class Projections:
    """The best latents, float32 [n, z], their images, uint8 [n, h, w, c], and the fit of each image.

    `psnr` (float64 [n]) is the peak signal-to-noise ratio in dB between the image and its target, or
    infinity where they are equal.
    """

    latents: NDArray[np.float32]
    images: Images
    psnr: NDArray[np.float64]


def project(
    generator: Generator,
    images: Images,
    settings: ProjectionSettings | None = None,
    *,
    labels: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Projections:
    """Find for each of `images`, uint8 [n, h, w, c], the latent whose image is nearest to it.

    `generator` is in evaluation mode and stays as it is. `labels` (int64 [n]) are the classes for a conditional
    generator. The search for an image does not depend on the other images. It has these steps:

    1. Draw `starts` latents from the normal distribution, the same ones for every image.
    2. Minimise `loss` by Adam over all latents of all images at once.
    3. Of each image's results, keep the one with the least squared error in grey levels.

    The schedule of the learning rate is that of Karras et al. 2020, whose noise on the latents does not help here.

    Raises:
        DataError: the images do not have the size and the channels of the generator.
        ConfigError: labels are missing, superfluous or out of range.
    """
    settings = settings or ProjectionSettings()
    _check(generator, images, labels)
    at_once = max(1, _MOST_ROWS // settings.starts)
    firsts = range(0, len(images), at_once)
    total, parts = len(firsts) * settings.steps, []
    for index, first in enumerate(firsts):
        part = slice(first, first + at_once)

        def show(step: int, before: int = index * settings.steps) -> None:
            if progress:
                progress(before + step, total)

        parts.append(_search(generator, images[part], None if labels is None else labels[part], settings, show))
    return Projections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def loss(generated: Tensor, targets: Tensor, latents: Tensor) -> Tensor:
    """Return the loss of each row, [b], for images [b, c, h, w] in -1..1 and the latents, [b, z], that they came from.

    It is the sum of three terms:

    - the mean squared error of the pixels;
    - the mean squared error of the differences between neighbouring pixels, across and down. These are the simplest
      features of an image: they weigh the place and the sharpness of strokes more than the grey of areas;
    - 0.1 (|z| / √dim − 1)² where the latent z is longer than √dim. Nearly all latents of the normal distribution have a
      length close to √dim, and the generator was not trained on longer ones.
    """
    pixels = _mean_square(generated - targets)
    error = generated - targets
    across, down = error.diff(dim=3), error.diff(dim=2)
    excess: Tensor = (latents.norm(dim=1) / math.sqrt(latents.shape[1]) - 1).clamp_min(0)
    return pixels + _mean_square(across) + _mean_square(down) + _NORM_WEIGHT * excess.square()


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)


def _check(generator: Generator, images: Images, labels: NDArray[np.int64] | None) -> None:
    wanted = (generator.size, generator.size, generator.channels)
    if images.ndim != 4 or images.shape[1:] != wanted or len(images) == 0:
        raise DataError(f"the generator makes images {wanted}, but those to project are {images.shape}")
    if generator.classes is None:
        if labels is not None:
            raise ConfigError("the generator has no classes: leave the label out")
        return
    classes = f"a label from 0 to {generator.classes - 1}"
    if labels is None:
        raise ConfigError(f"the generator makes images of {generator.classes} classes: give {classes}")
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= generator.classes:
        raise ConfigError(f"the labels {labels.tolist()} do not fit: give each image {classes}")


def _search(
    generator: Generator,
    images: Images,
    labels: NDArray[np.int64] | None,
    settings: ProjectionSettings,
    show: Callable[[int], None],
) -> tuple[NDArray[np.float32], Images, NDArray[np.float64]]:
    """Return the fields of `Projections` for as many images as fit into one batch. Its rows are images times starts."""
    device = _device(generator)
    targets = to_tensor(list(images)).to(device).repeat_interleave(settings.starts, 0)
    inputs: tuple[Tensor, ...] = ()
    if labels is not None:
        inputs = (torch.from_numpy(labels).to(device).repeat_interleave(settings.starts),)
    starts = normal(settings.seed, "latent/projection", range(settings.starts), generator.latent_dim)
    latents = torch.from_numpy(starts).to(device).repeat(len(images), 1).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = _RATE * _schedule((step + 0.5) / settings.steps)
        with torch.enable_grad():
            total = loss(generator(latents, *inputs).float(), targets, latents).sum()
        # Not backward(): the weights of the generator get no gradients.
        (latents.grad,) = torch.autograd.grad(total, latents)
        optimizer.step()
        show(step + 1)
    with torch.no_grad():
        generated = denormalize(generator(latents, *inputs))
    errors = _mean_square(generated.float() - denormalize(targets).float()).reshape(len(images), settings.starts)
    least, best = errors.min(1)
    rows = best + torch.arange(len(images), device=device) * settings.starts
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(255**2 / least.double().cpu().numpy())
    chosen = generated[rows].permute(0, 2, 3, 1).cpu().numpy()
    return latents.detach()[rows].cpu().numpy(), chosen, psnr


def _schedule(progress: float) -> float:
    """Return the factor of the learning rate at `progress` in 0..1: a ramp up, a plateau, half a cosine wave down."""
    down = min(1.0, (1 - progress) / _COOL_DOWN)
    return min(1.0, progress / _WARM_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


def _device(generator: Generator) -> torch.device:
    assert isinstance(generator, nn.Module)
    return next((tensor.device for tensor in generator.parameters()), torch.device("cpu"))
