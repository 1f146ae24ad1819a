"""Finds the layer at which a model begins to differ from its reference."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx

from export import graph
from export.errors import ExportError, ProofError
from export.feeds import Feeds, take_rows
from export.manifest import MODEL_FILE
from export.model_under_test import ModelUnderTest
from export.sessions import open_session
from export.targets.base import Target


def first_diverging_layer(model: ModelUnderTest, target: Target, folder: Path, feeds: Feeds) -> list[ExportError]:
    """Return one error that names the first layer whose output is not the reference's; empty if there is none.

    The model is the one in `folder`. The search is a bisection over the layers that both have: it assumes that all
    layers after a diverging one diverge too.
    """
    graph_model, row = onnx.load(folder / MODEL_FILE), take_rows(feeds, slice(0, 1))
    outputs = graph.layer_outputs(graph_model)
    layers = [(name, value) for name, value in model.reference.layers(row).items() if name in outputs]

    def relative_error(index: int) -> float:
        name, expected = layers[index]
        with tempfile.TemporaryDirectory() as opened:
            graph.save(graph.with_outputs(graph_model, [outputs[name]]), Path(opened))
            session = open_session(model, Path(opened))
        actual = session.run([outputs[name]], dict(row))[0].astype(np.float64)
        if actual.shape != expected.shape:
            return math.inf
        return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))

    good, bad = -1, len(layers)
    while bad - good > 1:
        middle = (good + bad) // 2
        if not relative_error(middle) <= target.layer_tolerance:  # a NaN counts as bad
            bad = middle
        else:
            good = middle
    if bad == len(layers):
        return []
    name, error = layers[bad][0], relative_error(bad)
    return [ProofError(f"the first layer that diverges is {name} (relative error {error:.2g})")]
