"""Mean and covariance of feature vectors that arrive in parts, and the Fréchet distance between two sets of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The first two moments of `count` vectors of dimension d, in float64.

    `mean` [d] is their mean m. `scatter` [d, d] is Σ (x − m)(x − m)ᵀ over the vectors x.
    """

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, vectors: ArrayLike) -> Moments:
        """Return the moments of `vectors`, [n, d]."""
        values = np.asarray(vectors, dtype=np.float64)
        if len(values) == 0:
            return cls(0, np.zeros(values.shape[1]), np.zeros((values.shape[1], values.shape[1])))
        mean = values.mean(0)
        deviations = values - mean
        return cls(len(values), mean, deviations.T @ deviations)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets together (Chan, Golub & LeVeque 1983, equations 1.5).

        With sizes n₁ and n₂, n = n₁ + n₂, means m₁ and m₂ and δ = m₂ − m₁, the mean is m₁ + δ n₂ / n and the scatter
        S₁ + S₂ + δ δᵀ n₁ n₂ / n. Unlike Σ x xᵀ − n m mᵀ, this subtracts no large numbers from each other.
        """
        count = self.count + other.count
        if count == 0:
            return self
        difference = other.mean - self.mean
        between = np.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, self.mean + difference * (other.count / count), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Floats:
        """The unbiased covariance, [d, d], which needs at least two vectors."""
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½) for means m and covariances C (Heusel et al. 2017, equation 6)."""
    # The trace of (C₁ C₂)^½ is the sum of the singular values of C₁^½ C₂^½. Eigenvalues of C₁^½ C₂ C₁^½, whose roots
    # have that sum too, would each bring the root of a rounding error where the features span fewer dimensions than d.
    common = np.linalg.svd(_root(first.covariance) @ _root(second.covariance), compute_uv=False).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(np.square(first.mean - second.mean).sum() + traces - 2 * common)


def _root(covariance: Floats) -> Floats:
    """Return the symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
