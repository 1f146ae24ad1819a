"""How close made digits are to real ones, in the features of a digit classifier trained on the spot.

Not the FID: that is the same distance in the features of one particular Inception network.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer.config import Section
from trainer.data.base import to_tensor
from trainer.data.digits import CLASSES, Digits
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.random import counter_rng

_CLASSIFIER_SEED = 0  # one classifier for every run, so that figures can be compared
_EPOCHS, _BATCH, _RATE, _SHIFT = 10, 50, 2e-3, 2
_SIZE = 32
_COVERED = 0.02


@register("metric", "digits_frechet")
class DigitsFrechet:
    """Fréchet distance to the held-out digits (Heusel et al. 2017, equation 6), and the classes that were made."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config, *, seed: int) -> None: ...

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, Any]:
        """Score digits, uint8 [n, 32, 32, 1].

        `frechet_distance_real_split` is the training half's own distance: what perfection would score.
        A class is covered when at least 2 % of the images are taken for it.

        Raises:
            DataError: images of another shape, or fewer than two.
        """
        if images.shape[1:] != (_SIZE, _SIZE, 1) or len(images) < 2:
            raise DataError(
                f"digits_frechet needs at least 2 grey images of {_SIZE}x{_SIZE}, "
                f"but was given {len(images)} of {'x'.join(map(str, images.shape[1:]))}"
            )
        classifier, digits = trained_classifier(), _digits()
        features, logits = _judge(classifier, images)
        held_out, _ = _judge(classifier, digits.labelled("held_out")[0])
        train, _ = _judge(classifier, digits.labelled("train")[0])
        confidence, classes = logits.softmax(1).max(1)
        shares = torch.bincount(classes, minlength=CLASSES) / len(images)
        return {
            "frechet_distance": frechet_distance(features, held_out),
            "frechet_distance_real_split": frechet_distance(train, held_out),
            "classes_covered": int((shares >= _COVERED).sum()),
            "class_shares": shares.tolist(),
            "mean_confidence": confidence.mean().item(),
        }


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two sets of features, [n, d] each, in float64."""
    first, second = first.double(), second.double()
    cov1, cov2 = first.T.cov(), second.T.cov()
    # The trace of (Σ₁ Σ₂)^½ is that of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric and so has real eigenvalues.
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    distance = (first.mean(0) - second.mean(0)).square().sum() + cov1.trace() + cov2.trace() - 2 * common
    return float(distance)


class Classifier(nn.Module):
    """Three convolutions and a layer of 128 features, for grey images of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [b, 10] of images [b, 1, 32, 32] in -1..1."""
        logits: Tensor = self.classes(self.features(image))
        return logits


@cache
@torch.enable_grad()
def trained_classifier() -> Classifier:
    """The classifier after a few seconds on the training half, with a fixed seed."""
    images, labels = _digits().labelled("train")
    targets = torch.from_numpy(labels).long()
    draw = counter_rng(_CLASSIFIER_SEED, "metric/digits_classifier", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_CLASSIFIER_SEED)
        classifier = Classifier()
    optimizer = torch.optim.Adam(classifier.parameters(), _RATE)
    steps = _EPOCHS * len(images) // _BATCH
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(_EPOCHS):
        for chosen in draw.permutation(len(images)).reshape(-1, _BATCH):
            shift = draw.integers(-_SHIFT, _SHIFT, size=2, endpoint=True).tolist()
            moved = to_tensor(list(images[chosen])).roll(shift, (2, 3))
            loss = cross_entropy(classifier(moved), targets[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return classifier.eval()


@cache
def _digits() -> Digits:
    return Digits(Digits.Config(size=_SIZE), seed=0)


@torch.no_grad()
def _judge(classifier: Classifier, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Features [n, 128] and logits [n, 10]."""
    features = torch.cat([classifier.features(part) for part in torch.split(to_tensor(list(images)), 256)])
    return features, classifier.classes(features)
