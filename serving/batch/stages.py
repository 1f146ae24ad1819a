"""Makes the images of a shard: the same files that a server answers for them one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, LABEL, SOURCE
from serving.answers import Pictures, finish
from serving.batch.columns import carried_columns, error_columns
from serving.batch.formats.base import LABEL_COLUMN, Item, Value
from serving.batch.inputs import read_entry
from serving.batch.output import BadItem
from serving.batch.pipeline import Stopwatch, ahead, windows
from serving.batch.plan import Plan
from serving.batch.runner import Runner
from serving.batch.sources.base import Contents, Entry
from serving.batching import Tensors
from serving.config import Limits
from serving.errors import EngineError, ImageError, ServingError
from serving.feeds import check
from serving.verb import VERBS, Outputs
from serving.verbs.cycle import error_of
from serving.verbs.generate import GenerateRequest
from serving.verbs.translate import TranslateRequest
from zorse_common.errors import FetchError, one_line
from zorse_common.files import UNREADABLE

LIMITS = Limits(bytes=2**30, pixels=2**27, images=2**20)
"""The limits of one input image; its tiles count as images."""
_BATCHES_AHEAD = 2
Result = Item | BadItem
T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """An input file: its position among all, the name of its result, and where it lies."""

    number: int
    name: str
    entry: Entry


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
        pictures = verb.render(runner.interface, [{IMAGE: images[row : row + 1]}], alone)
        assert isinstance(pictures, Pictures)
        content = finish(pictures, runner.origin, plan.image_format).content
        fields = {"number": number, "seed": request.seed}
        if LABEL in inputs:
            fields[LABEL_COLUMN] = int(inputs[LABEL][row])
        return Item(pictures.names[0], {plan.passes[0].column: content}, plan.image_format, fields)

    outputs = map(run, windows(numbers, plan.batch))
    for items in ahead(pool, encode, outputs, _BATCHES_AHEAD):
        yield from items


@dataclass(frozen=True)
class _Read:
    """An input file: its content, and the pixels that the models have to translate."""

    source: Input
    contents: Contents
    pixels: int


@dataclass(frozen=True)
class _Sample:
    """A decoded input on its way through the passes: what is known of each pass so far, by its position."""

    source: Input
    values: Mapping[str, Value]
    requests: dict[int, TranslateRequest] = field(default_factory=dict)
    feeds: dict[int, Sequence[Feeds]] = field(default_factory=dict)
    outputs: dict[int, Outputs] = field(default_factory=dict)
    pictures: dict[int, Pictures] = field(default_factory=dict)


def translate(
    runners: Sequence[Runner], plan: Plan, inputs: Sequence[Input], pool: Executor, stopwatch: Stopwatch
) -> Iterator[Result]:
    """Yield the translated `inputs`, and for each that cannot be translated its name and the reason.

    `runners` has the model of each pass. A file is the answer to a request with the input alone.

    Raises:
        FetchError: an object store failed.
        EngineError: the graph fails for a small image too.
    """
    stages, depth = _Stages(runners, plan, stopwatch), _BATCHES_AHEAD * plan.batch
    contents = ahead(pool, _or_row(stages.read), inputs, depth, lambda source: source.entry.size)
    decoded = ahead(pool, _or_row(stages.decode), contents, depth, _pixels)
    outputs = (done for window in windows(decoded, plan.batch, _pixels) for done in stages.run(window))
    return ahead(pool, _or_row(stages.encode), outputs, depth, _pixels)


class _Stages:
    """The stages of a translation."""

    def __init__(self, runners: Sequence[Runner], plan: Plan, stopwatch: Stopwatch) -> None:
        self._runners, self._plan, self._stopwatch = runners, plan, stopwatch
        self._verb = VERBS.find("translate")
        self._request: TranslateRequest = self._verb.request.parse({**plan.keys, "format": plan.image_format})
        self._first = [number for number, one in enumerate(plan.passes) if one.translates is None]
        """The positions of the passes that translate the inputs."""
        self._errors, self._carried = error_columns(plan), carried_columns(plan)

    def read(self, source: Input) -> _Read:
        """Read a file, and check by its header whether the models can translate it."""
        with self._stopwatch.measured("read"):
            contents = read_entry(source.entry)
        for name, value in contents.values.items():
            if self._plan.carried[name] == "int" and value is not None and not -(2**63) <= value < 2**63:
                raise ImageError(f"the {name} beside the image is no number of 64 bits")
        interfaces = [self._runners[number].interface for number in self._first]
        works = [self._request.check_images([contents.image], interface, LIMITS) for interface in interfaces]
        return _Read(source, contents, sum(work.pixels for work in works))

    def decode(self, entry: _Read) -> _Sample:
        """Decode a file, once for all models."""
        with self._stopwatch.measured("decode"):
            interface = self._runners[0].interface
            request = self._request.model_copy().with_images([entry.contents.image], interface, LIMITS)
            sample = _Sample(entry.source, entry.contents.values)
            for number in self._first:
                self._prepare(sample, number, request.images)
            return sample

    def run(self, window: Sequence[_Sample | BadItem]) -> Sequence[_Sample | BadItem]:
        """Run the models, one after the other, on all samples."""
        with self._stopwatch.measured("run"):
            for number in range(len(self._runners)):
                window = [_or_row(self._prepare_back)(sample, number) for sample in window]
                done = iter(self._run_pass(number, [sample for sample in window if isinstance(sample, _Sample)]))
                window = [sample if isinstance(sample, BadItem) else next(done) for sample in window]
        return window

    def encode(self, sample: _Sample) -> Item:
        """Make the files of a sample, and measure what its cycles lost."""
        with self._stopwatch.measured("encode"):
            fields: dict[str, Value] = {"number": sample.source.number, "source": sample.source.entry.name}
            images = {}
            for number, one in enumerate(self._plan.passes):
                pictures = self._pictures(sample, number)
                images[one.column] = finish(pictures, self._runners[number].origin, self._plan.image_format).content
                if one.translates is not None:
                    error, _ = error_of(sample.requests[one.translates].images[0], pictures.images[0])
                    fields[self._errors[number]] = error
        fields |= {column: sample.values.get(name) for name, column in self._carried.items()}
        return Item(sample.source.name, images, self._plan.image_format, fields)

    def _prepare(self, sample: _Sample, number: int, images: list[NDArray[Any]]) -> None:
        """Plan and check a pass over `images`."""
        interface, request = self._runners[number].interface, self._request.model_copy().with_arrays(images)
        sample.requests[number], sample.feeds[number] = request, self._verb.plan(interface, request)
        for one in sample.feeds[number]:
            check(interface, one)

    def _prepare_back(self, sample: _Sample, number: int) -> _Sample:
        before = self._plan.passes[number].translates
        if before is not None:
            self._prepare(sample, number, list(self._pictures(sample, before).images))
        return sample

    def _pictures(self, sample: _Sample, number: int) -> Pictures:
        """Return the image of a pass."""
        if number not in sample.pictures:
            interface = self._runners[number].interface
            pictures = self._verb.render(interface, sample.outputs[number], sample.requests[number])
            assert isinstance(pictures, Pictures)
            sample.pictures[number] = pictures
        return sample.pictures[number]

    def _run_pass(self, number: int, samples: Sequence[_Sample]) -> list[_Sample | BadItem]:
        """Return the samples with the outputs of a pass. Those whose common run fails are run one by one.

        Raises:
            EngineError: a sample fails alone, and so does a small image: the sample is not the reason.
        """
        runner = self._runners[number]
        try:
            outputs = iter(runner.run([one for sample in samples for one in sample.feeds[number]]))
        except (EngineError, MemoryError) as error:
            if len(samples) > 1:
                return [done for sample in samples for done in self._run_pass(number, [sample])]
            runner.run_smallest()
            return [_row(samples[0].source, error)]
        for sample in samples:
            sample.outputs[number] = [next(outputs) for _ in sample.feeds.pop(number)]
        return list(samples)


def _or_row(function: Callable[..., T]) -> Callable[..., T | BadItem]:
    """Return a function that returns the row of an input for which `function` fails, and rows as they are.

    The first argument of `function` is the input, or has it as `source`.
    """

    def result(value: Any, *more: Any) -> T | BadItem:
        if isinstance(value, BadItem):
            return value
        try:
            return function(value, *more)
        except FetchError:
            raise  # it is a RuntimeError as well
        except (ServingError, MemoryError, *UNREADABLE) as error:
            return _row(value if isinstance(value, Input) else value.source, error)

    return result


def _row(source: Input, error: BaseException) -> BadItem:
    return BadItem(source.number, source.entry.name, one_line(error))


def _pixels(value: _Read | _Sample | BadItem) -> int:
    """Return the pixels of the images that `value` holds, or that its file has."""
    if isinstance(value, BadItem):
        return 0
    if isinstance(value, _Read):
        return value.pixels
    arrays = [one[SOURCE] for every in value.feeds.values() for one in every]
    arrays += [one[IMAGE] for every in value.outputs.values() for one in every]
    return sum(math.prod(array.shape[:3]) for array in arrays)
