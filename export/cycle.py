"""Measures how far images are from themselves after two translators that lead back to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.grey_levels import as_stored, from_grey_levels, to_grey_levels
from export.manifest import Cycle
from export.model_under_test import ModelUnderTest
from export.proof_inputs import proof_input
from export.sessions import open_session, run_session


def cycle_error(
    there: tuple[ModelUnderTest, Path], back: tuple[ModelUnderTest, Path], images: Sequence[NDArray[Any]] = ()
) -> Cycle:
    """Translate `images`, or one seeded image of the training size, there and back, and compare with the originals.

    `there` and `back` are each a model and the folder of its file. The result is the mean absolute difference in grey
    levels, once with the references and once with onnxruntime.
    """
    (first, _), (second, _) = there, back
    assert first.interface.size is not None
    spec, size = first.interface.inputs[0], first.training_size
    channels = int(spec.shape[-1])
    noise = proof_input(first.interface, (1, *first.interface.size.legal(size, size), channels))
    sources = [image[None] for image in images] or [noise[spec.name]]
    session_there, session_back = (open_session(model, folder) for model, folder in (there, back))
    errors = {"reference": 0.0, "onnxruntime": 0.0}
    for source in sources:
        levels = to_grey_levels(spec, source)
        between = run_session(first, session_there, {spec.name: source})
        returned = run_session(second, session_back, {second.interface.inputs[0].name: between})
        errors["onnxruntime"] += float(np.abs(to_grey_levels(second.image_spec, returned) - levels).mean())
        expected = _reference_round_trip(first, second, source)
        errors["reference"] += float(np.abs(expected - levels).mean())
    return Cycle(**{name: round(total / len(sources), 3) for name, total in errors.items()})


def _reference_round_trip(first: ModelUnderTest, second: ModelUnderTest, source: NDArray[Any]) -> NDArray[Any]:
    """Return `source` translated there and back by the references, in grey levels."""
    levels = as_stored(first.image_spec, first.reference.image({first.interface.inputs[0].name: source}))
    spec = second.interface.inputs[0]
    return as_stored(second.image_spec, second.reference.image({spec.name: from_grey_levels(spec, levels)}))
