"""Image k of seed s is the same everywhere: the numbers themselves are part of the contract."""

from __future__ import annotations

import numpy as np
import pytest

from serving.latents import latents

GOLDEN = {
    (0, 0): [0.059911035001277924, 0.015559634193778038, -1.1644384860992432, -0.13264712691307068],
    (0, 1): [-1.020335078239441, 0.9838422536849976, 0.11760513484477997, 0.6439363360404968],
    (1, 0): [1.091689109802246, 0.45582669973373413, 0.7017897367477417, 0.2849433720111847],
    (2**63 - 1, 2**40): [0.6454488039016724, 0.4176618158817291, 0.8607047200202942, 0.04960108548402786],
}


@pytest.mark.parametrize(("seed", "number"), GOLDEN)
def test_golden_values(seed: int, number: int) -> None:
    assert latents(seed, number, 1, 4)[0].tolist() == GOLDEN[seed, number]


def test_an_image_does_not_depend_on_its_batch() -> None:
    whole = latents(7, 0, 20, 128)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole[3:11], latents(7, 3, 8, 128))
    np.testing.assert_array_equal(np.concatenate([latents(7, k, 1, 128) for k in range(20)]), whole)


def test_a_longer_code_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(latents(7, 5, 1, 300)[:, :100], latents(7, 5, 1, 100))


def test_codes_of_different_images_and_seeds_share_no_number() -> None:
    codes = np.concatenate([latents(seed, 0, 50, 512) for seed in (0, 1, 2)])
    # 150 × 512 draws of 24 random bits collide by chance, but never at more than a few places.
    assert len(np.unique(codes)) > 0.98 * codes.size
    assert abs(np.corrcoef(codes) - np.eye(150)).max() < 0.25


def test_codes_are_standard_normal() -> None:
    codes = latents(3, 0, 400, 256)
    assert abs(codes.mean()) < 0.01
    assert abs(codes.std() - 1) < 0.01
