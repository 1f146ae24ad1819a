"""Makes the results of a shard one by one in a process of its own, which may die: then it is known with what."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from serving import artifacts
from serving.batch.columns import columns
from serving.batch.output import BadItem
from serving.batch.pipeline import Stopwatch
from serving.batch.plan import Plan
from serving.batch.results import EXPECTED_ERRORS, InProcess
from serving.batch.stages import Input, Result
from serving.errors import BatchError
from zorse_common.errors import one_line

_TRIES = 2
"""How often a process has to die with the same item alone. One death may have another reason."""


class Alone:
    """Makes results in another process, one at a time. They are those of `InProcess`.

    An input with which the process dies is a bad input.
    """

    def __init__(self, plan: Plan, gpu_fraction: float) -> None:
        """Use the models of `plan`. No process is started before the first result."""
        self._plan, self._gpu_fraction = plan, gpu_fraction
        interface = artifacts.load(plan.passes[0].uri).manifest.interface
        self.columns = columns(plan, is_conditional=interface.labels is not None)
        self._child: _Child | None = None

    def results(self, numbers: range, inputs: Sequence[Input], stopwatch: Stopwatch) -> Iterator[Result]:
        """Yield results.

        Raises:
            BatchError: a process failed, or died with the model, or with an image that has no input.
        """
        for position, number in enumerate(numbers):
            with stopwatch.measured("alone"):
                result = self._result(number, inputs[position : position + 1])
            yield result

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _result(self, number: int, inputs: Sequence[Input]) -> Result:
        death = ""
        for _ in range(_TRIES):
            self._child = self._child or _Child(self._plan, self._gpu_fraction)
            answer = self._child.ask(number, inputs)
            if isinstance(answer, Result):
                return answer
            death = self._child.end()
            self._child = None
        for source in inputs:
            return BadItem(source.number, source.entry.name, f"the process died with it ({death})")
        raise BatchError(f"the process dies with image {number} ({death}): check the memory and the model")


class _Child:
    """A process with the models of a plan."""

    def __init__(self, plan: Plan, gpu_fraction: float) -> None:
        """Start the process, and wait until the models are open.

        Raises:
            BatchError: a model cannot be opened, or the process died with it.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, plan, gpu_fraction), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection
        if self._received() is None:
            raise BatchError(f"the process dies with {plan.models} ({self.end()}): check the memory")

    def ask(self, number: int, inputs: Sequence[Input]) -> Result | None:
        """Return the result of the image `number`, or None if the process died."""
        with contextlib.suppress(OSError):
            self._connection.send((number, inputs))
        results = self._received()
        return results[0] if results else None

    def end(self) -> str:
        """End the process, unless it is dead. Returns how it ended, such as "SIGSEGV"."""
        self._connection.close()
        self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _received(self) -> list[Result] | None:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, str):
            self.end()
            raise BatchError(answer)
        results: list[Result] = answer
        return results


def _serve(connection: Connection, plan: Plan, gpu_fraction: float) -> None:
    """Open the models of `plan`, send an empty list, and answer each item with its result.

    A text is the reason of a failure. The end of the connection ends the process.
    """
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            maker = InProcess.open(plan, gpu_fraction)
            connection.send([])
            while True:
                number, inputs = connection.recv()
                connection.send(list(maker.results(range(number, number + 1), inputs, Stopwatch())))
        except EXPECTED_ERRORS as error:
            connection.send(one_line(error))
