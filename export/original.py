"""A foreign ONNX model as its file has it: what it takes and makes is found by running it, untouched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import external_data_helper

from export.errors import ImporterError
from export.graph import graphs, with_outputs
from export.interface import AxisLimits, Kind, SizeLimits
from export.manifest import GREY_LEVELS
from zorse_common.errors import first_sentence

MOST_CHANNELS, _USUAL_EDGE = 64, 48
_USUAL_CHANNELS = (1, 3, 4)
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_BYTES = (0.0, 255.0)


@dataclass(frozen=True)
class Declared:
    """What a file does not say of itself.

    `input_range` are the numbers that grey levels 0 and 255 become before they go in, `output_range` those that become
    0 and 255 when they come out (None: those of the input). `mean` and `std`, one for all channels or one each, then
    normalise the input: it is (x / 255 * (high - low) + low - mean) / std. `layout` is that of both ends. Heights and
    widths that the file leaves open are multiples of `size_multiple` pixels.

    Raises:
        ImporterError: a range does not rise, a number is not finite, or a `std` or the multiple is not positive.
    """

    input_range: tuple[float, float] | None = None
    output_range: tuple[float, float] | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size_multiple: int = 1

    def __post_init__(self) -> None:
        for what, ends in (("input", self.input_range), ("output", self.output_range)):
            if ends is None:
                continue
            low, high = ends
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ImporterError(f"the {what} range {low}..{high} does not rise: give a lower number, then a higher")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ImporterError(f"mean {self.mean} and std {self.std}: give finite numbers, and std above 0")
        if self.size_multiple < 1:
            raise ImporterError(f"sizes cannot be multiples of {self.size_multiple}: give 1 or more")

    @property
    def made_range(self) -> tuple[float, float]:
        """The output's range: the declared one, or that of the input.

        Raises:
            ImporterError: neither is declared.
        """
        if self.output_range is None and self.input_range is None:
            raise ImporterError(
                "an ONNX file does not say what black and white are: give its --input-range, or of a generator its "
                "--output-range"
            )
        return self.output_range or self.input_range or _BYTES

    @property
    def given_range(self) -> tuple[float, float]:
        """The input's range, which translators must have.

        Raises:
            ImporterError: it is not declared.
        """
        if self.input_range is None:
            raise ImporterError("an ONNX file does not say what black and white are: give its --input-range")
        return self.input_range


class OnnxFile(NamedTuple):
    """A model with all its weights, and the SHA-256 of its file, or of that and the files of weights beside it."""

    model: onnx.ModelProto
    digest: str


def load_onnx(path: Path) -> OnnxFile:
    """Read the file `path`, and the weights that lie beside it.

    Raises:
        ImporterError: it cannot be read, is no ONNX file, holds no graph, or weights are missing.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ImporterError(f"{path} cannot be read ({error.strerror}): give an ONNX file") from error
    except Exception as error:  # what broken bytes make protobuf raise has no base that onnx names
        raise ImporterError(f"{path} is not an ONNX file ({first_sentence(error)}): export it again") from error
    if not model.graph.node:
        raise ImporterError(f"{path} is not an ONNX file or holds no graph: export it again")
    beside = _locations(model)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises its checker's errors, the system's and ValueError here
        text = first_sentence(error)
        raise ImporterError(f"{path}: its weights cannot be read ({text}): put their file beside it") from error
    total = hashlib.sha256(path.read_bytes())
    for location in beside:
        with (path.parent / location).open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return OnnxFile(model, total.hexdigest())


def _locations(model: onnx.ModelProto) -> list[str]:
    """The files of weights that the model's own file names, sorted."""
    tensors = (tensor for graph in graphs(model.graph) for tensor in _tensors(graph))
    entries = (entry for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return sorted({entry.value for entry in entries})


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)


class NodeArg(NamedTuple):
    """An input or output as onnxruntime describes it; an axis that may vary is no int."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | str | None, ...]


class Original:
    """The untouched `model`, with the arithmetic around it done by numpy; `name` is for messages.

    Raises:
        ImporterError: it does not load, or has other ports than one input and one output of a type that is known.
    """

    def __init__(self, model: onnx.ModelProto, declared: Declared, name: str) -> None:
        self.model, self.declared, self.name = model, declared, name
        self._session = session(model, name)
        self.given, self.made = self._ports()
        self.channels_first = declared.layout == "NCHW"
        self.edges = self.given.shape[2:] if self.channels_first else self.given.shape[1:3]
        is_code = len(self.given.shape) == 2 or (len(self.given.shape) == 4 and self.edges == (1, 1))
        self.kind: Kind = "generator" if is_code else "translator"
        if self.kind == "translator":
            self._check_input()
        self.clipped = self.made_values = 0
        """How many of all values that `images` made lay beyond black and white, by more than a grey level."""

    def images(self, given: NDArray[Any]) -> NDArray[np.float32]:
        """Grey levels before rounding, float32 [batch, height, width, channels], for what an artifact would be given.

        They are in 0..255, but what is not finite stays so. Each is made alone: none can depend on its neighbours.

        Raises:
            ImporterError: the model does not run on them.
        """
        low, high = self.declared.made_range
        made = np.concatenate([self.run(one[None]) for one in given]).astype(np.float32)
        levels = (made - low) / (high - low) * GREY_LEVELS
        self.made_values += levels.size
        self.clipped += int(((levels < -1) | (levels > GREY_LEVELS + 1)).sum())
        return np.where(np.isfinite(levels), np.clip(levels, 0, GREY_LEVELS), levels).astype(np.float32)

    def run(self, given: NDArray[Any]) -> NDArray[Any]:
        """The model's own values [1, h, w, c] for one code [1, z], or one image [1, h, w, c], of an artifact.

        Raises:
            ImporterError: it does not run on that, or makes no image.
        """
        made = run(self._session, self._fed(given), self.name)[:1]
        if made.ndim != 4:
            raise ImporterError(
                f"{self.name}: its output {self.made.name} {list(made.shape)} has {made.ndim} axes, and an image has 4 "
                f"(one for the batch): end the network with a reshape to {self.declared.layout} and export it again"
            )
        return made.transpose(0, 2, 3, 1) if self.channels_first else made

    def inner(self, given: NDArray[Any], names: list[str]) -> list[NDArray[Any]]:
        """The values `names` inside the model for one code or one image.

        Raises:
            ImporterError: the model with them as outputs does not load.
        """
        opened = session(with_outputs(self.model, names), self.name)
        values: list[NDArray[Any]] = opened.run(names, {self.given.name: self._fed(given)})
        return values

    def _fed(self, given: NDArray[Any]) -> NDArray[Any]:
        values = given
        if self.kind == "generator" and len(self.given.shape) == 4:
            values = np.expand_dims(given, (1, 2))
        elif self.kind == "translator" and self.given.dtype is not np.uint8:
            low, high = self.declared.given_range
            values = given.astype(np.float32) / GREY_LEVELS * (high - low) + low
            values = (values - np.array(self.declared.mean, np.float32)) / np.array(self.declared.std, np.float32)
        if self.channels_first and values.ndim == 4:
            values = values.transpose(0, 3, 1, 2)
        batch = self.given.shape[0]
        return np.repeat(values.astype(self.given.dtype), batch if isinstance(batch, int) else 1, axis=0)

    def examples(self, max_size: int) -> tuple[SizeLimits | None, NDArray[Any]]:
        """Two inputs [2, ...] as an artifact has them, and the sizes that a translator takes.

        Heights and widths that the file leaves open are the declared multiples up to `max_size`, from the smallest that
        it was found to work on; the images are of that size.

        Raises:
            ImporterError: the input is neither an image nor a latent vector, the output no image or one of another
                size than the input, or it does not run.
        """
        return (None, _codes(self)) if self.kind == "generator" else _pictures(self, max_size)

    def _ports(self) -> tuple[NodeArg, NodeArg]:
        both = (("input", self._session.get_inputs()), ("output", self._session.get_outputs()))
        for what, ports in both:
            if len(ports) != 1:
                names = ", ".join(port.name for port in ports)
                raise ImporterError(f"{self.name} has {len(ports)} {what}s ({names}): cut it down to one")
            if ports[0].type not in _DTYPES:
                raise ImporterError(
                    f"{self.name}: its {what} {ports[0].name} is {ports[0].type}: convert the network to float32 (in "
                    "PyTorch: .float()) and export it again"
                )
        given, made = (NodeArg(port.name, _DTYPES[port.type], tuple(port.shape)) for _, (port,) in both)
        for port in (given, made):
            if any(isinstance(axis, int) and axis < 1 for axis in port.shape):
                raise ImporterError(
                    f"{self.name}: {port.name} {list(port.shape)} has an axis of nothing: export it again"
                )
        if made.dtype is np.uint8 and self.declared.made_range != _BYTES:
            raise ImporterError(f"{self.name}: output {made.name} is uint8: declare the output range 0..255")
        return given, made

    def _check_input(self) -> None:
        as_it_is = (self.declared.given_range, self.declared.mean, self.declared.std) == (_BYTES, (0.0,), (1.0,))
        if self.given.dtype is np.uint8 and not as_it_is:
            raise ImporterError(
                f"{self.name}: input {self.given.name} is uint8: declare the input range 0..255 and no mean or std"
            )


def _codes(original: Original) -> NDArray[np.float32]:
    """Two latent codes [2, z]."""
    name, dtype, shape = original.given
    dim = shape[1 if original.channels_first else -1]
    if not isinstance(dim, int) or dtype is np.uint8:
        raise ImporterError(f"{original.name}: input {name} {list(shape)} is no vector of floats of a fixed length")
    given = np.random.default_rng(0).standard_normal((2, dim), dtype=np.float32)
    _channels(original, original.made.name, _raw(original, original.run(given[:1]).shape))
    return given


def _pictures(original: Original, max_size: int) -> tuple[SizeLimits, NDArray[np.uint8]]:
    """The sizes that a translator takes, and two images [2, h, w, c] that are large enough to tell one from another."""
    channels = _channels(original, original.given.name, original.given.shape)
    for what, numbers in (("mean", original.declared.mean), ("std", original.declared.std)):
        if len(numbers) not in (1, channels):
            raise ImporterError(f"{original.name} takes {channels} channels: give one {what}, or {channels}")
    multiple = original.declared.size_multiple
    if multiple > max_size:
        raise ImporterError(f"{original.name}: sizes are multiples of {multiple} up to {max_size}: there is none")
    smallest, maximum = multiple, max_size // multiple * multiple
    while True:
        edges = (
            AxisLimits(axis, axis, axis) if isinstance(axis, int) else AxisLimits(multiple, smallest, maximum)
            for axis in original.edges
        )
        limits = SizeLimits(*edges)
        try:
            _picture(original, limits, smallest, channels)
            return limits, _picture(original, limits, max(smallest, _USUAL_EDGE), channels)
        except ImporterError:
            smallest *= 2
            if limits.smallest == limits.largest or smallest + multiple > maximum:
                raise


def _picture(original: Original, limits: SizeLimits, edge: int, channels: int) -> NDArray[np.uint8]:
    """Two images of about `edge` pixels, whose size the original was found to keep or to scale by a whole factor."""
    # Height and width differ by one step, so that a model that needs a larger multiple shows it.
    height, width = limits.height.legal(edge), limits.width.legal(edge + limits.width.multiple)
    given = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    given[1] //= 2
    shape = original.run(given[:1]).shape
    if shape[1:3] != tuple(max(1, shape[1] // height) * edge for edge in (height, width)):
        raw = _raw(original, shape)
        if (raw[1:3] if original.channels_first else raw[2:]) == (height, width):
            name, layout = original.made.name, original.declared.layout
            raise ImporterError(
                f"{original.name}: output {name} {list(raw)} is not {layout} as its input: give both one layout"
            )
        raise ImporterError(
            f"{original.name} makes {shape[1]}×{shape[2]} pixels of {height}×{width}: the size must be kept or scaled "
            "by a whole factor; if it is rounded to a multiple, give that as --size-multiple"
        )
    if shape[3] > MOST_CHANNELS:
        raise ImporterError(
            f"{original.name} makes {shape[3]} channels and the most is {MOST_CHANNELS}: it is no image"
        )
    return given


def session(model: onnx.ModelProto, name: str) -> onnxruntime.InferenceSession:
    """A session on the CPU that says nothing by itself; raises ImporterError where onnxruntime takes no such model."""
    try:
        content = bytes(model.SerializeToString())
    except Exception as error:  # protobuf's errors have no base that onnx names
        raise ImporterError(f"{name} is above 2 GB: export it in half precision") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        remedy = (
            "export it in float32" if "NOT_IMPLEMENTED" in str(error) else "export it again with ONNX's own operators"
        )
        raise ImporterError(f"{name}: onnxruntime does not load it ({first_sentence(error)}): {remedy}") from error


def run(opened: onnxruntime.InferenceSession, given: NDArray[Any], name: str) -> NDArray[Any]:
    """The one output for the one input; raises ImporterError where it does not run."""
    try:
        made: NDArray[Any] = opened.run(None, {opened.get_inputs()[0].name: given})[0]
    except Exception as error:  # onnxruntime's errors have no common base
        raise ImporterError(
            f"{name} does not run on the input {list(given.shape)} ({first_sentence(error)})"
        ) from error
    return made


def _raw(original: Original, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [b, h, w, c] in the original's declared layout."""
    batch, height, width, channels = shape
    return (batch, channels, height, width) if original.channels_first else shape


def _channels(original: Original, port: str, shape: tuple[int | str | None, ...]) -> int:
    """How many there are by the declared layout, if that can be."""
    where = f"{original.name}: {port} [{', '.join('?' if axis is None else str(axis) for axis in shape)}]"
    if len(shape) != 4:
        raise ImporterError(f"{where} has {len(shape)} axes: an image has 4, a latent vector 2")
    layout, other = ("NCHW", "NHWC") if original.channels_first else ("NHWC", "NCHW")
    channels, elsewhere = (shape[1], shape[3]) if original.channels_first else (shape[3], shape[1])
    if elsewhere in _USUAL_CHANNELS and channels not in _USUAL_CHANNELS:
        raise ImporterError(f"{where} cannot be {layout}: declare the layout {other}")
    if not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS:
        raise ImporterError(
            f"{where}: by the layout {layout} it has {channels} channels, and 1 to {MOST_CHANNELS} can be"
        )
    return channels
