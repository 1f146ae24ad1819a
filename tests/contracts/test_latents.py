"""Image k of seed s has the same latent everywhere: the values themselves are part of the contract."""

from __future__ import annotations

import numpy as np
import pytest

from serving.feeds import latents

GOLDEN = {
    (0, 0): [-1.4845024347305298, 1.6072790622711182, 1.1871436834335327, -0.4464147984981537],
    (0, 1): [0.27796289324760437, -0.1552758365869522, -0.04673809930682182, -0.3756588101387024],
    (1, 0): [-0.24639399349689484, -0.3781614303588867, 0.15894769132137299, 0.5129431486129761],
    (2**63 - 1, 2**40): [-0.21890419721603394, -0.5177207589149475, 0.5530773401260376, 1.6648775339126587],
}


@pytest.mark.parametrize(("seed", "number"), GOLDEN)
def test_latents_have_the_golden_values(seed: int, number: int) -> None:
    assert latents(seed, [number], 4)[0].tolist() == GOLDEN[seed, number]


def test_latents_do_not_depend_on_the_batch() -> None:
    whole = latents(7, range(20), 128)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole[3:11], latents(7, range(3, 11), 128))
    np.testing.assert_array_equal(np.concatenate([latents(7, [k], 128) for k in range(20)]), whole)


def test_latents_of_a_larger_dimension_begin_with_the_smaller() -> None:
    np.testing.assert_array_equal(latents(7, [5], 300)[:, :100], latents(7, [5], 100))


def test_latents_of_different_images_and_seeds_are_independent() -> None:
    rows = np.concatenate([latents(seed, range(50), 512) for seed in (0, 1, 2)])
    # 150 × 512 draws of 24 random bits collide by chance, but never at more than a few places.
    assert len(np.unique(rows)) > 0.98 * rows.size
    assert abs(np.corrcoef(rows) - np.eye(150)).max() < 0.25


def test_latents_are_standard_normal() -> None:
    rows = latents(3, range(400), 256)
    assert abs(rows.mean()) < 0.01
    assert abs(rows.std() - 1) < 0.01
