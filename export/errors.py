"""The errors of the export stage: each message is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from zorse_common.errors import ZorseError

OTHER_WAY = "export your network to ONNX with torch.onnx.export and import that with --from onnx"
"""What helps where an architecture is not known."""


class ExportError(ZorseError):
    """Base of every error that a user of the export stage can cause."""


class ManifestError(ExportError):
    """A manifest is missing, is not JSON, or breaks the artifact contract."""


class UnsupportedGraphError(ExportError):
    """A network or a graph is something that an artifact may not be."""


class ProofError(ExportError):
    """onnxruntime and the reference disagree by more than the target's tolerance."""


class ImageSetError(ExportError):
    """The images given for a proof cannot be found or read."""


class ImporterError(ExportError):
    """A foreign checkpoint or ONNX file cannot be imported."""


class RepositoryError(ExportError):
    """The model repository cannot be written, or a model cannot have the name that was asked for."""


TOLD_REASONS = 3
"""How many reasons of a refusal its message gives."""


class RefusedError(ExceptionGroup[ExportError], ExportError):
    """Everything that keeps one model from becoming an artifact; nothing was published."""

    def __str__(self) -> str:
        told = [str(reason) for reason in self.exceptions]
        if len(told) > TOLD_REASONS:
            # The last one may be the layer that the others come from.
            left = len(told) - TOLD_REASONS
            told = [*told[: TOLD_REASONS - 1], f"{left} more", told[-1]]
        return f"{self.message}: {'; '.join(told)}"
