"""The errors of the trainer: each message is one line that says what is wrong, where, and what to do."""


class TrainerError(Exception):
    """Base of every error that a user of the trainer can cause."""


class ConfigError(TrainerError):
    """A configuration file or override is wrong."""


class DataError(TrainerError):
    """Training or evaluation images are missing, unreadable, too few or of the wrong size."""


class SnapshotError(TrainerError):
    """A snapshot is missing, incomplete or was changed after it was written."""


class LaunchError(TrainerError):
    """The cluster cannot run what was asked for, or a worker failed."""
