"""Proves a model against its reference, in grey levels: nothing is published without it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from export import graph
from export.candidate import Candidate, Shape, from_grey, grey, probe, probes, stored
from export.errors import ExportError, ProofError, RefusedError
from export.manifest import GREY_LEVELS, MODEL_FILE, WEIGHTS_FILE, Cycle, Proof
from export.targets.base import Target
from zorse_common.errors import first_sentence

_WITHIN = 0.999
_ROUNDING = 1 + 1e-9
"""Steps in grey levels are not whole numbers for every dtype."""
_GOLDEN_BYTES = 2**18
ALONE = 2
"""Grey levels by which an image in a batch may differ from itself alone, however coarse the target."""
_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_ORT_TYPES = {
    "uint8": "tensor(uint8)",
    "uint16": "tensor(uint16)",
    "float32": "tensor(float)",
    "int64": "tensor(int64)",
}


Pair = tuple[NDArray[Any], NDArray[Any]]
"""An input, and the image made of it."""


@dataclass(frozen=True)
class Compared:
    """A proof, and what the model made of small inputs, which travels with it."""

    proof: Proof
    golden: list[Pair]


@dataclass(frozen=True)
class Expected:
    """Inputs, and the images that the reference makes of them, in grey levels as they are once stored.

    `real_images` of the `pairs` are photographs and the like, whole; `buckets` are for fixed axes.
    """

    pairs: list[Pair]
    buckets: list[Pair]
    real_images: int


def expect(
    candidate: Candidate, target: Target, images: Sequence[NDArray[Any]] = (), buckets: Sequence[Shape] = ()
) -> Expected:
    """Run the candidate's reference.

    Inputs are the real `images` ([height, width, channels] of legal sizes), and those of several shapes, up to the
    largest that the artifact declares, and of the shapes `buckets`: seeded ones, or of calibrated targets parts of the
    images.

    Raises:
        RefusedError: it does not run on one, or a value is not finite.
    """

    def run(given: NDArray[Any]) -> Pair:
        return given, _expected(candidate, given)

    parts = images if target.calibrated else ()
    pairs = [run(given) for given in (*probes(candidate, parts), *(image[None] for image in images))]
    return Expected(pairs, [run(probe(candidate, bucket, parts)) for bucket in buckets], len(images))


def verify(
    candidate: Candidate,
    folder: Path,
    target: Target,
    expected: Expected,
    emulation: onnx.ModelProto | None = None,
) -> Compared:
    """Compare onnxruntime on the model in `folder`, and on the `emulation` of it, with what is `expected` of both.

    Raises:
        RefusedError: the model does not run or does not declare the contract, a value is not finite, an image depends
            on its neighbours in the batch, or the differences are more than the target allows; then also which layer
            is the first to diverge.
    """
    tally, pairs = _Tally(candidate, target), []
    session = _session(candidate, folder, {})
    _check_contract(candidate, session)
    for given, image in expected.pairs:
        actual = tally.compare(session, folder, given, image)
        if len(given) > 1 and isinstance(candidate.given.shape[0], str) and not tally.over:
            tally.compare_alone(session, given, actual)
        pairs.append((given, actual))
    for given, image in expected.buckets:
        bucket = given.shape
        fixed = {axis: edge for axis, edge in zip(candidate.given.shape, bucket, strict=True) if isinstance(axis, str)}
        tally.compare(_session(candidate, folder, fixed), folder, given, image)
        if left := _left_to_compute(folder, fixed):
            what = f"with the axes of {'x'.join(map(str, bucket))} fixed it still computes shapes ({', '.join(left)})"
            raise _refused(candidate, f"{what}, which CUDA graphs cannot: leave the bucket out")
    with tempfile.TemporaryDirectory() as work:
        if emulation is not None:
            graph.save(emulation, Path(work))
            emulated = _session(candidate, Path(work), {})
            for given, image in expected.pairs:
                tally.compare(emulated, Path(work), given, image, f"{target.name} as other devices compute it")
        if tally.over:
            diverges = _first_layer(candidate, target, *min(tally.over, key=lambda entry: entry[1].size))
            raise RefusedError(f"{candidate.name} is not proved", [*tally.errors, *diverges])
    return Compared(tally.proof(expected.real_images), _golden(pairs))


def cycle(there: tuple[Candidate, Path], back: tuple[Candidate, Path], images: Sequence[NDArray[Any]] = ()) -> Cycle:
    """How far `images`, or a seeded one of the training size, are from their translations there and back."""
    (first, _), (second, _) = there, back
    assert first.size is not None
    sources = [image[None] for image in images]
    sources = sources or [probe(first, (1, *first.size.legal(first.edge, first.edge), int(first.given.shape[-1])))]
    one, two = (_session(candidate, folder, {}) for candidate, folder in (there, back))
    far = {"reference": 0.0, "onnxruntime": 0.0}
    for source in sources:
        levels = grey(first.given, source)
        came = grey(second.made, _run(second, two, _run(first, one, source)))
        far["onnxruntime"] += float(np.abs(came - levels).mean()) / len(sources)
        between = from_grey(second.given, stored(first.made, first.reference.image(source)))
        should = stored(second.made, second.reference.image(between))
        far["reference"] += float(np.abs(should - levels).mean()) / len(sources)
    return Cycle(**{name: round(value, 3) for name, value in far.items()})


class _Tally:
    """Differences over all that was compared; `over` are the models' folders and the inputs where they are too much."""

    def __init__(self, candidate: Candidate, target: Target) -> None:
        self.over: list[tuple[Path, NDArray[Any]]] = []
        self.errors: list[ExportError] = []
        self._candidate, self._target = candidate, target
        low, high = candidate.made.value_range or (0, GREY_LEVELS)
        step = 0.0 if candidate.made.dtype == "float32" else GREY_LEVELS / (high - low)
        self._tolerance = max(target.tolerance, step)
        self._histogram = np.zeros(64 * GREY_LEVELS + 1, dtype=np.int64)  # of differences, in 64ths of a grey level
        self._largest, self._squares, self._count = 0.0, 0.0, 0
        self._shapes: list[tuple[int, ...]] = []

    def compare(
        self,
        session: onnxruntime.InferenceSession,
        folder: Path,
        given: NDArray[Any],
        expected: NDArray[Any],
        what: str = "onnxruntime",
    ) -> NDArray[Any]:
        """Count the differences on one input, and return the session's image; `what` is what it is in messages."""
        actual = _run(self._candidate, session, given)
        if actual.shape != expected.shape:
            raise _refused(
                self._candidate, f"for input {given.shape} {what} makes {actual.shape}, not {expected.shape}"
            )
        if wrong := int((~np.isfinite(actual)).sum()):
            self.over.append((folder, given))
            text = f"for input {given.shape} {wrong} of {actual.size} values of {what} are not finite"
            self.errors.append(ProofError(text))
            return actual
        differences = np.abs(expected - grey(self._candidate.made, actual))
        squares = float(np.square(differences, dtype=np.float64).sum())
        self._largest = max(self._largest, float(differences.max()))
        self._squares += squares
        self._count += differences.size
        self._shapes.append(given.shape)
        steps = np.minimum(np.ceil(differences * 64), 64 * GREY_LEVELS).astype(np.int64)
        self._histogram += np.bincount(steps.ravel(), minlength=len(self._histogram))
        worst, psnr = float(differences.max()), _psnr(squares, differences.size)
        if worst > self._tolerance * _ROUNDING or (psnr is not None and psnr < self._target.min_psnr):
            self.over.append((folder, given))
            self.errors.append(
                ProofError(
                    f"for input {given.shape} {what} is up to {worst:.4g} grey levels from "
                    f"{self._candidate.reference.name} with a PSNR of {psnr:.1f} dB "
                    f"({self._target.name} allows {self._tolerance:.3g} and {self._target.min_psnr:g} dB)"
                )
            )
        return actual

    def compare_alone(self, session: onnxruntime.InferenceSession, given: NDArray[Any], together: NDArray[Any]) -> None:
        """A server puts the images of different people in one batch: none may change another."""
        made, last = self._candidate.made, len(given) - 1
        for place in (slice(0, 1), slice(last, last + 1)):
            alone = grey(made, _run(self._candidate, session, given[place]))
            apart = float(np.abs(alone - grey(made, together[place])).max())
            if not apart <= min(self._tolerance, ALONE) * _ROUNDING:
                what = f"in a batch of {len(given)} an image is {apart:.4g} grey levels from what it is alone: "
                what += "is a normalisation using the batch's own statistics?"
                raise _refused(self._candidate, what)

    def proof(self, real_images: int) -> Proof:
        """What was measured."""
        within = int(np.searchsorted(np.cumsum(self._histogram), _WITHIN * self._count)) / 64
        psnr = _psnr(self._squares, self._count)
        return Proof(
            tolerance=_tidy(self._tolerance),
            replay_tolerance=self._target.replay_tolerance,
            max_grey_diff=_tidy(self._largest),
            p999_grey_diff=_tidy(within),
            psnr=None if psnr is None else round(psnr, 2),
            shapes=tuple(dict.fromkeys(self._shapes)),
            real_images=real_images,
            onnxruntime=onnxruntime.__version__,
            reference=self._candidate.reference.name,
        )


def _golden(pairs: list[Pair]) -> list[Pair]:
    """The smallest pair, and the next ones while all stay small."""
    by_size = sorted(pairs, key=lambda pair: pair[0].nbytes + pair[1].nbytes)
    sums = list(accumulate(given.nbytes + made.nbytes for given, made in by_size))
    return [pair for pair, total in zip(by_size, sums, strict=True) if total <= _GOLDEN_BYTES] or by_size[:1]


def _expected(candidate: Candidate, given: NDArray[Any]) -> NDArray[np.float64]:
    try:
        levels = candidate.reference.image(given)
    except ProofError as error:
        raise _refused(candidate, str(error)) from error
    size = tuple(edge * candidate.scale for edge in given.shape[1:3])
    if candidate.size is not None and levels.shape[1:3] != size:
        made, wanted = ("×".join(map(str, shape[1:3])) for shape in (levels.shape, given.shape))
        what = (
            f"{candidate.reference.name} makes {made} of images of {wanted} (height × width): the size must be kept"
            + (f" or scaled by {candidate.scale}, " if candidate.scale > 1 else ", ")
        )
        raise _refused(candidate, what + "so declare the multiple that it needs, or a smaller largest size")
    # Rounding would hide them: a NaN becomes an ordinary grey level.
    wrong = int((~np.isfinite(levels)).sum())
    if wrong:
        what = f"for input {given.shape} {wrong} of {levels.size} values of {candidate.reference.name} are not finite"
        raise _refused(candidate, what)
    return stored(candidate.made, levels)


def _session(candidate: Candidate, folder: Path, fixed: Mapping[str, int]) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), _options(fixed), providers=["CPUExecutionProvider"]
        )
    except _ORT_ERRORS as error:
        what = f"onnxruntime does not load the model ({first_sentence(error)})"
        raise _refused(candidate, what) from error


def _options(fixed: Mapping[str, int]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    for axis, edge in fixed.items():
        options.add_free_dimension_override_by_name(axis, edge)
    return options


def _left_to_compute(folder: Path, fixed: Mapping[str, int]) -> list[str]:
    """The shape arithmetic that onnxruntime does not fold away where axes are fixed."""
    options = _options(fixed)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # One file would be above the 2 GB that a model may have.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
    with tempfile.TemporaryDirectory() as work:
        options.optimized_model_filepath = f"{work}/{MODEL_FILE}"
        onnxruntime.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])
        return graph.shape_arithmetic(onnx.load(f"{work}/{MODEL_FILE}", load_external_data=False))


def _check_contract(candidate: Candidate, session: onnxruntime.InferenceSession) -> None:
    ports = [*session.get_inputs(), *session.get_outputs()]
    found = [(port.name, port.type, tuple(port.shape)) for port in ports]
    promised = [(port.name, _ORT_TYPES[port.dtype], port.shape) for port in (candidate.given, candidate.made)]
    if found != promised:
        what = f"the model's inputs and outputs are {found} and the contract wants {promised}"
        raise _refused(candidate, what)


def _run(candidate: Candidate, session: onnxruntime.InferenceSession, given: NDArray[Any]) -> NDArray[Any]:
    try:
        image: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: given})[0]
    except _ORT_ERRORS as error:
        what = f"onnxruntime does not run on input {given.shape} ({first_sentence(error)})"
        raise _refused(candidate, what) from error
    return image


def _first_layer(candidate: Candidate, target: Target, folder: Path, given: NDArray[Any]) -> list[ExportError]:
    """The first layer of the model in `folder` whose output is not the reference's, found by halving, if any."""
    model, given = onnx.load(folder / MODEL_FILE), given[:1]
    outputs = graph.layer_outputs(model)
    layers = [(name, value) for name, value in candidate.reference.layers(given).items() if name in outputs]

    def error(index: int) -> float:
        name, expected = layers[index]
        with tempfile.TemporaryDirectory() as opened:
            graph.save(graph.with_outputs(model, [outputs[name]]), Path(opened))
            session = _session(candidate, Path(opened), {})
        actual = session.run([outputs[name]], {session.get_inputs()[0].name: given})[0].astype(np.float64)
        if actual.shape != expected.shape:
            return math.inf
        return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))

    sound, broken = -1, len(layers)
    while broken - sound > 1:
        middle = (sound + broken) // 2
        if not error(middle) <= target.layer_tolerance:  # a NaN is broken
            broken = middle
        else:
            sound = middle
    if broken == len(layers):
        return []
    return [ProofError(f"the first layer that diverges is {layers[broken][0]} (relative error {error(broken):.2g})")]


def _refused(candidate: Candidate, *reasons: str) -> RefusedError:
    return RefusedError(f"{candidate.name} is not proved", [ProofError(reason) for reason in reasons])


def _psnr(squares: float, count: int) -> float | None:
    return 10 * math.log10(GREY_LEVELS**2 * count / squares) if squares else None


def _tidy(levels: float) -> float:
    """Four digits, and whole levels as whole numbers."""
    rounded = float(f"{levels:.4g}")
    return int(rounded) if rounded == int(rounded) else rounded
