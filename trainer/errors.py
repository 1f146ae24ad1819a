"""The errors of the trainer. Each message is one line that says what is wrong, where, and what to do."""

import re

from zorse_common.errors import ZorseError

_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED", re.IGNORECASE)
"""What torch, CUDA, cuBLAS, cuDNN and NCCL say when memory is exhausted. Only torch has a type for this error."""


class TrainerError(ZorseError):
    """Base of every error that a user of the trainer can cause."""


class ConfigError(TrainerError):
    """A configuration file or override is wrong."""


class DataError(TrainerError):
    """Training or evaluation images are missing, unreadable, too few or of the wrong size."""


class SnapshotError(TrainerError):
    """A snapshot is missing or incomplete, or was changed after it was written."""


class CheckpointError(TrainerError):
    """A checkpoint cannot be written, is damaged, or does not fit the run."""


class WatchdogError(TrainerError):
    """The watchdog stopped a run that could not continue."""


class Preempted(TrainerError):  # noqa: N818 - not a fault, but it ends the command
    """A signal stopped the run, which can be resumed."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h, after which job managers try again."""


class LaunchError(TrainerError):
    """The cluster is too small or unreachable, or a worker failed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch raised `error` because the memory of the GPU or of the machine is exhausted."""
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


PROGRAMMING_ERRORS = (TypeError, ValueError, LookupError, AttributeError, NameError, AssertionError, ImportError)
"""Exceptions by which a component of another package fails in the same way at every attempt."""
