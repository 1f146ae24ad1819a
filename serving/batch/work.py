"""Makes the images of a shard: the same files that a server answers for them one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, LABEL
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
from serving.errors import ServingError
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
        with stopwatch.measured("encode"):
            return [item(number, inputs, outputs[IMAGE], row) for row, number in enumerate(batch)]

    def item(number: int, inputs: Feeds, images: NDArray[Any], row: int) -> Item:
        alone = request.model_copy(update={"first": start + number, "n": 1})
        name, content = _file(runner, verb, [{IMAGE: images[row : row + 1]}], alone)
        fields = {"number": start + number, "seed": request.seed}
        if LABEL in inputs:
            fields[LABEL_COLUMN] = int(inputs[LABEL][row])
        return Item(name, content, plan.image_format, fields)

    outputs = map(run, windows(numbers, plan.batch))
    for items in ahead(pool, encode, outputs, _BATCHES_AHEAD):
        yield from items


@dataclass(frozen=True)
class _Decoded:
    """An input that was read: its request and the model's inputs."""

    source: Input
    request: TranslateRequest
    feeds: Sequence[Feeds]


def translate(
    runner: Runner, plan: Plan, inputs: Sequence[Input], pool: Executor, stopwatch: Stopwatch
) -> Iterator[Result]:
    """Yield the translated `inputs`, and for each that cannot be translated its name and the reason.

    A file is the answer to a request with the input alone.

    Raises:
        FetchError: an object store failed.
        EngineError: the graph fails.
    """
    verb = VERBS.find("translate")
    base: TranslateRequest = verb.request.parse({**plan.keys, "format": plan.image_format})

    def decode(source: Input) -> _Decoded | BadItem:
        try:
            with stopwatch.measured("read"):
                content = read_entry(source.entry)
            with stopwatch.measured("decode"):
                base.check_images([content], runner.interface, LIMITS)
                request = base.model_copy().with_images([content], runner.interface, LIMITS)
                every = verb.plan(runner.interface, request)
                for one in every:
                    check(runner.interface, one)
                return _Decoded(source, request, every)
        except FetchError:
            raise  # it is a RuntimeError as well
        except (ServingError, *UNREADABLE) as error:
            return BadItem(source.number, source.entry.name, one_line(error))

    def run(batch: Iterable[_Decoded | BadItem]) -> Iterator[tuple[_Decoded, Sequence[Tensors]] | BadItem]:
        batch = list(batch)
        good = [entry for entry in batch if isinstance(entry, _Decoded)]
        with stopwatch.measured("run"):
            outputs = iter(runner.run([one for entry in good for one in entry.feeds]))
        for entry in batch:
            yield entry if isinstance(entry, BadItem) else (entry, [next(outputs) for _ in entry.feeds])

    def encode(done: tuple[_Decoded, Sequence[Tensors]] | BadItem) -> Result:
        if isinstance(done, BadItem):
            return done
        entry, outputs = done
        with stopwatch.measured("encode"):
            _, content = _file(runner, verb, outputs, entry.request)
        fields: dict[str, Value] = {"number": entry.source.number, "source": entry.source.entry.name}
        return Item(entry.source.name, content, plan.image_format, fields)

    depth = _BATCHES_AHEAD * plan.batch
    decoded = ahead(pool, decode, inputs, depth)
    outputs = (done for window in windows(decoded, plan.batch) for done in run(window))
    return ahead(pool, encode, outputs, depth)


def _file(runner: Runner, verb: Verb[Any], outputs: Outputs, request: PictureRequest) -> tuple[str, bytes]:
    """Return the name and the content of the image that answers `request`."""
    pictures = verb.render(runner.interface, outputs, request)
    assert isinstance(pictures, Pictures)
    return pictures.names[0], finish(pictures, runner.origin, request.format).content
