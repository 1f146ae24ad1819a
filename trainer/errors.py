"""The errors of the trainer: each message is one line that says what is wrong, where, and what to do."""

import re

from zorse_common.errors import ZorseError

_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED", re.IGNORECASE)
"""What torch, CUDA, cuBLAS, cuDNN and NCCL say when memory is exhausted; only torch has a type of error for it."""


class TrainerError(ZorseError):
    """Base of every error that a user of the trainer can cause."""


class ConfigError(TrainerError):
    """A configuration file or override is wrong."""


class DataError(TrainerError):
    """Training or evaluation images are missing, unreadable, too few or of the wrong size."""


class SnapshotError(TrainerError):
    """A snapshot is missing, incomplete or was changed after it was written."""


class CheckpointError(TrainerError):
    """A checkpoint cannot be written, is damaged, or does not fit the run."""


class WatchdogError(TrainerError):
    """Training went wrong and could not go on."""


class Preempted(TrainerError):  # noqa: N818 - no fault, but the end of the command all the same
    """The run was asked to stop, wrote a checkpoint and can be resumed."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: job managers try again."""


class LaunchError(TrainerError):
    """The cluster cannot run what was asked for, or a worker failed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch raised `error` because the memory of the GPU or of the machine is exhausted."""
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
