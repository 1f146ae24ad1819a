"""Makes the images of a shard: the same files that a server answers for them one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, LABEL, SOURCE
from serving.answers import Pictures, finish
from serving.batch.formats.base import LABEL_COLUMN, Columns, Item, Value
from serving.batch.inputs import read_entry
from serving.batch.output import BadItem
from serving.batch.pipeline import Stopwatch, ahead, windows
from serving.batch.plan import Plan
from serving.batch.runner import Runner
from serving.batch.sources.base import Entry
from serving.batching import Tensors
from serving.config import Limits
from serving.errors import EngineError, ServingError
from serving.feeds import check
from serving.verb import VERBS, Outputs, PictureRequest, Verb
from serving.verbs.generate import GenerateRequest
from serving.verbs.translate import TranslateRequest
from zorse_common.errors import FetchError, one_line
from zorse_common.files import UNREADABLE

LIMITS = Limits(bytes=2**30, pixels=2**27, images=2**20)
"""The limits of one input image; its tiles count as images."""
_BATCHES_AHEAD = 2
Result = Item | BadItem
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """An input file: its position among all, the name of its result, and where it lies."""

    number: int
    name: str
    entry: Entry


def columns(plan: Plan, is_conditional: bool) -> Columns:
    """Return the columns of the job's images."""
    if plan.verb == "translate":
        return {"number": int, "source": str}
    return {"number": int, "seed": int} | ({LABEL_COLUMN: int} if is_conditional else {})


def generate(runner: Runner, plan: Plan, numbers: range, pool: Executor, stopwatch: Stopwatch) -> Iterator[Result]:
    """Yield the images `numbers` of the plan's seed. File k is the answer to a request for image k alone."""
    verb = VERBS.find("generate")
    request: GenerateRequest = verb.request.parse({**plan.keys, "format": plan.image_format})
    start = request.first

    def run(batch: Sequence[int]) -> tuple[Sequence[int], Feeds, Tensors]:
        with stopwatch.measured("run"):
            part = request.model_copy(update={"first": start + batch[0], "n": len(batch)})
            (inputs,) = verb.plan(runner.interface, part)
            check(runner.interface, inputs)
            return batch, inputs, runner.run([inputs])[0]

    def encode(done: tuple[Sequence[int], Feeds, Tensors]) -> list[Result]:
        batch, inputs, outputs = done
        # One request whose number changes: to copy a request takes a tenth of the time of a small image.
        alone = request.model_copy(update={"n": 1})
        with stopwatch.measured("encode"):
            return [item(alone, start + number, inputs, outputs[IMAGE], row) for row, number in enumerate(batch)]

    def item(alone: GenerateRequest, number: int, inputs: Feeds, images: NDArray[Any], row: int) -> Item:
        alone.first = number
        name, content = _file(runner, verb, [{IMAGE: images[row : row + 1]}], alone)
        fields = {"number": number, "seed": request.seed}
        if LABEL in inputs:
            fields[LABEL_COLUMN] = int(inputs[LABEL][row])
        return Item(name, content, plan.image_format, fields)

    outputs = map(run, windows(numbers, plan.batch))
    for items in ahead(pool, encode, outputs, _BATCHES_AHEAD):
        yield from items


@dataclass(frozen=True)
class _Read:
    """An input file: its content, and the pixels that the model has to translate."""

    source: Input
    content: bytes
    pixels: int


@dataclass(frozen=True)
class _Decoded:
    """A decoded input: its request and the model's inputs."""

    source: Input
    request: TranslateRequest
    feeds: Sequence[Feeds]


@dataclass(frozen=True)
class _Translated:
    """The outputs of the model for an input."""

    source: Input
    request: TranslateRequest
    outputs: Sequence[Tensors]


def translate(
    runner: Runner, plan: Plan, inputs: Sequence[Input], pool: Executor, stopwatch: Stopwatch
) -> Iterator[Result]:
    """Yield the translated `inputs`, and for each that cannot be translated its name and the reason.

    A file is the answer to a request with the input alone.

    Raises:
        FetchError: an object store failed.
        EngineError: the graph fails for a small image too.
    """
    verb = VERBS.find("translate")
    base: TranslateRequest = verb.request.parse({**plan.keys, "format": plan.image_format})

    def read(source: Input) -> _Read:
        with stopwatch.measured("read"):
            content = read_entry(source.entry)
        return _Read(source, content, base.check_images([content], runner.interface, LIMITS).pixels)

    def decode(entry: _Read) -> _Decoded:
        with stopwatch.measured("decode"):
            request = base.model_copy().with_images([entry.content], runner.interface, LIMITS)
            every = verb.plan(runner.interface, request)
            for one in every:
                check(runner.interface, one)
            return _Decoded(entry.source, request, every)

    def run(window: Sequence[_Decoded | BadItem]) -> Iterator[_Translated | BadItem]:
        with stopwatch.measured("run"):
            done = iter(_run(runner, [entry for entry in window if isinstance(entry, _Decoded)]))
        for entry in window:
            yield entry if isinstance(entry, BadItem) else next(done)

    def encode(done: _Translated) -> Item:
        with stopwatch.measured("encode"):
            _, content = _file(runner, verb, done.outputs, done.request)
        fields: dict[str, Value] = {"number": done.source.number, "source": done.source.entry.name}
        return Item(done.source.name, content, plan.image_format, fields)

    depth = _BATCHES_AHEAD * plan.batch
    contents = ahead(pool, _or_row(read, lambda source: source), inputs, depth, lambda source: source.entry.size)
    decoded = ahead(pool, _or_row(decode, lambda entry: entry.source), contents, depth, _pixels)
    outputs = (done for window in windows(decoded, plan.batch, _pixels) for done in run(window))
    return ahead(pool, _or_row(encode, lambda done: done.source), outputs, depth, _pixels)


def _or_row(function: Callable[[S], T], source_of: Callable[[S], Input]) -> Callable[[S | BadItem], T | BadItem]:
    """Return a function that returns the row of an input for which `function` fails, and rows as they are.

    `source_of` returns the input of a value.
    """

    def result(value: S | BadItem) -> T | BadItem:
        if isinstance(value, BadItem):
            return value
        try:
            return function(value)
        except FetchError:
            raise  # it is a RuntimeError as well
        except (ServingError, MemoryError, *UNREADABLE) as error:
            source = source_of(value)
            return BadItem(source.number, source.entry.name, one_line(error))

    return result


def _run(runner: Runner, inputs: Sequence[_Decoded]) -> list[_Translated | BadItem]:
    """Return the outputs for each input. Inputs whose common run fails are run one by one.

    Raises:
        EngineError: an input fails alone, and so does a small image: the input is not the reason.
    """
    try:
        outputs = iter(runner.run([one for entry in inputs for one in entry.feeds]))
        return [_Translated(entry.source, entry.request, [next(outputs) for _ in entry.feeds]) for entry in inputs]
    except (EngineError, MemoryError) as error:
        if len(inputs) > 1:
            return [done for entry in inputs for done in _run(runner, [entry])]
        runner.run_smallest()
        (entry,) = inputs
        return [BadItem(entry.source.number, entry.source.entry.name, one_line(error))]


def _pixels(value: _Read | _Decoded | _Translated | BadItem) -> int:
    """Return the pixels of the images that `value` holds, or that its file has."""
    if isinstance(value, BadItem):
        return 0
    if isinstance(value, _Read):
        return value.pixels
    images = (
        [one[IMAGE] for one in value.outputs]
        if isinstance(value, _Translated)
        else [one[SOURCE] for one in value.feeds]
    )
    return sum(math.prod(every.shape[:3]) for every in images)


def _file(runner: Runner, verb: Verb[Any], outputs: Outputs, request: PictureRequest) -> tuple[str, bytes]:
    """Return the name and the content of the image that answers `request`."""
    pictures = verb.render(runner.interface, outputs, request)
    assert isinstance(pictures, Pictures)
    return pictures.names[0], finish(pictures, runner.origin, request.format).content
