"""Makes the results of a shard: images and bad inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from serving.batch import stages
from serving.batch.columns import columns
from serving.batch.formats.base import Columns
from serving.batch.pipeline import Stopwatch
from serving.batch.plan import Plan
from serving.batch.runner import Runner
from serving.batch.stages import Input, Result
from serving.errors import BatchError
from zorse_common.errors import FetchError, ZorseError

EXPECTED_ERRORS = (ZorseError, FetchError, OSError, MemoryError)
"""What a user or a machine can cause while results are made and published."""


class ResultMaker(Protocol):
    """Makes results; `columns` are those of the job's images."""

    columns: Columns

    def results(self, numbers: range, inputs: Sequence[Input], stopwatch: Stopwatch) -> Iterator[Result]:
        """Yield the result of each of `numbers`, in order. Of a translation `inputs` has the files with these numbers.

        `stopwatch` measures the stages.
        """

    def close(self) -> None:
        """End the threads and processes."""


class InProcess:
    """Makes results with the models in this process. Their runs, decoding and encoding overlap."""

    def __init__(self, runners: Sequence[Runner], plan: Plan) -> None:
        """Use `runners`, one for each pass; decode and encode in a thread."""
        self._runners, self._plan = runners, plan
        self._pool = ThreadPoolExecutor(1, "zorse-batch")
        self.columns = columns(plan, is_conditional=runners[0].interface.labels is not None)

    @classmethod
    def open(cls, plan: Plan, gpu_fraction: float) -> InProcess:
        """Open the models of `plan`, which together may use the part `gpu_fraction` of the GPU's memory.

        Raises:
            BatchError: one is not the model that the job started with.
            ArtifactError, EngineError: as `Runner.load`.
        """
        uris = {one.uri for one in plan.passes}
        fraction = gpu_fraction / len(uris)
        loaded = {uri: Runner.load(uri, plan.device, plan.batch, gpu_fraction=fraction) for uri in sorted(uris)}
        for one in plan.passes:
            if loaded[one.uri].origin.digest != one.digest:
                raise BatchError(f"the model at {one.uri} is not the one that the job started with: restore it")
        return cls([loaded[one.uri] for one in plan.passes], plan)

    def results(self, numbers: range, inputs: Sequence[Input], stopwatch: Stopwatch) -> Iterator[Result]:
        """Yield results, see `stages.generate` and `stages.translate`."""
        if self._plan.verb == "translate":
            return stages.translate(self._runners, self._plan, inputs, self._pool, stopwatch)
        return stages.generate(self._runners[0], self._plan, numbers, self._pool, stopwatch)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)
