"""The distance of generated digits from real ones, in the features of a digit classifier that is trained on first use.

It is not the FID, which is the same distance in the features of one particular Inception network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer.config import Section
from trainer.data.digits import CLASSES, Digits
from trainer.data.tensors import to_tensor
from trainer.errors import DataError
from trainer.metrics.base import Images, Integers
from trainer.metrics.moments import Moments, frechet_distance
from trainer.registry import register
from zorse_common.random import counter_rng

_CLASSIFIER_SEED = 0  # one classifier for every run, so that figures can be compared
_EPOCHS, _BATCH, _RATE, _SHIFT = 10, 50, 2e-3, 2
_SIZE, _FEATURES = 32, 128
_CLASSIFIED_TOGETHER = 256
_COVERED = 0.02


@dataclass(frozen=True)
class DigitsState:
    """What the classifier says of the images so far.

    `features` are the moments of its features, `classes` (int64 [10]) counts the images by its answer, and `confidence`
    is the sum of its probabilities for these answers.
    """

    features: Moments = field(default_factory=lambda: Moments.of(np.empty((0, _FEATURES))))
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CLASSES, dtype=np.int64))
    confidence: float = 0.0

    def merged(self, other: DigitsState) -> DigitsState:
        """Return the state of both sets of images together."""
        return DigitsState(
            self.features.merged(other.features), self.classes + other.classes, self.confidence + other.confidence
        )


@register("metric", "digits_frechet")
class DigitsFrechet:
    """The Fréchet distance to the held-out digits (Heusel et al. 2017, equation 6), and the classes of the images."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config, *, seed: int) -> None:
        self._state = DigitsState()

    def update(self, images: Images, labels: Integers | None = None, numbers: Integers | None = None) -> None:
        """Classify more digits, uint8 [n, 32, 32, 1]. Their labels and numbers do not matter.

        Raises:
            DataError: the images have another shape.
        """
        if images.shape[1:] != (_SIZE, _SIZE, 1):
            shape = "x".join(map(str, images.shape[1:]))
            raise DataError(f"digits_frechet needs grey images of {_SIZE}x{_SIZE}, but these are {shape}")
        self._state = self._state.merged(_classified(images))

    def state(self) -> DigitsState:
        """Return what the classifier says of the images so far."""
        return self._state

    def merge(self, state: DigitsState) -> None:
        """Add the images of another worker."""
        self._state = self._state.merged(state)

    def compute(self) -> dict[str, float]:
        """Return the distance, how sure the classifier is, and the share of each class.

        `frechet_distance_real_split` is the distance of the training half from the held-out half: a generator can
        hardly do better. A class is covered when the classifier takes at least 2 % of the images for it.

        Raises:
            DataError: there were fewer than two images.
        """
        count = self._state.features.count
        if count < 2:
            raise DataError(f"digits_frechet needs at least 2 images, but there were {count}")
        held_out, train = _features_of_half("held_out"), _features_of_half("train")
        shares = self._state.classes / count
        return {
            "frechet_distance": frechet_distance(self._state.features, held_out),
            "frechet_distance_real_split": frechet_distance(train, held_out),
            "classes_covered": int((shares >= _COVERED).sum()),
            "mean_confidence": self._state.confidence / count,
            **{f"class_share_{digit}": float(share) for digit, share in enumerate(shares)},
        }


class Classifier(nn.Module):
    """Three convolutions and a layer of 128 features, for grey images of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 4 * 4, _FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Linear(_FEATURES, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, [b, 10], of images [b, 1, 32, 32] in -1..1."""
        logits: Tensor = self.classes(self.features(image))
        return logits


@cache
@torch.enable_grad()
def trained_classifier() -> Classifier:
    """Train the classifier on the training half with a fixed seed, which takes a few seconds, and return it."""
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
            shifted = to_tensor(list(images[chosen])).roll(shift, (2, 3))
            loss = cross_entropy(classifier(shifted), targets[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return classifier.eval()


@cache
def _digits() -> Digits:
    return Digits(Digits.Config(size=_SIZE), seed=0)


@cache
def _features_of_half(half: Literal["train", "held_out"]) -> Moments:
    """Return the moments of the features of the real digits."""
    return _classified(_digits().labelled(half)[0]).features


@torch.no_grad()
def _classified(images: Images) -> DigitsState:
    """Return what the classifier says of `images`."""
    classifier, state = trained_classifier(), DigitsState()
    for first in range(0, len(images), _CLASSIFIED_TOGETHER):
        features = classifier.features(to_tensor(list(images[first : first + _CLASSIFIED_TOGETHER])))
        confidence, classes = classifier.classes(features).softmax(1).max(1)
        counts = torch.bincount(classes, minlength=CLASSES).numpy()
        part = DigitsState(Moments.of(features.numpy()), counts, float(confidence.double().sum()))
        state = state.merged(part)
    return state
