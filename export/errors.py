"""The errors of the export stage: each message is one line that says what is wrong, where, and what to do."""


class ExportError(Exception):
    """Base of every error that a user of the export stage can cause."""


class ManifestError(ExportError):
    """A manifest is missing, is not JSON, or breaks the artifact contract."""


class UnsupportedGraphError(ExportError):
    """The exported graph holds an operator that an artifact may not hold (a random or a training-only one)."""


class ProofError(ExportError):
    """onnxruntime and torch disagree by more than the target's tolerance; nothing was published."""


class ImageSetError(ExportError):
    """The images given for a proof cannot be found or read."""


class RepositoryError(ExportError):
    """The model repository cannot be written, or a model cannot have the name that was asked for."""
