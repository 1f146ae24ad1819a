"""Two unpaired collections of bright noise, on which gradients can be compared to seven digits."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image


def write_textures(folder: Path) -> None:
    """Eight images of 20 x 20 in `trainA` and in `trainB`, noise of several scales.

    Flat images would do no good, since norms on them magnify rounding; nor images near the networks' first
    output, grey, since there the slope of the L1 losses jumps.
    """
    draw = np.random.default_rng(0)
    for domain, number in itertools.product("AB", range(8)):
        coarse = draw.integers(190, 256, (6, 6, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((20, 20), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (image + draw.integers(-20, 20, image.shape)).clip(190, 255).astype(np.uint8)
        path = folder / f"train{domain}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path)
