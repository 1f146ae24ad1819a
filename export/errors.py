"""The errors of the export stage: each message is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from zorse_common.errors import ZorseError

OTHER_WAY = "export your network to ONNX with torch.onnx.export and import that with --from onnx"
"""What to do if an architecture is not known."""


class ExportError(ZorseError):
    """Base of every error that a user of the export stage can cause."""


class ManifestError(ExportError):
    """A manifest is missing, is not JSON, or breaks the artifact contract."""


class UnsupportedGraphError(ExportError):
    """A network or a graph cannot become an artifact."""


class ProofError(ExportError):
    """onnxruntime and the reference disagree by more than the target's tolerance."""


class ImageSetError(ExportError):
    """The images of a proof are missing, cannot be read, or cannot be used."""


class ImporterError(ExportError):
    """A foreign checkpoint or ONNX file cannot be imported."""


class RepositoryError(ExportError):
    """The model repository cannot be written, or a name is not allowed in it."""


SHOWN_REASONS = 3
"""The largest number of reasons in the message of a refusal."""


class RefusedError(ExceptionGroup[ExportError], ExportError):
    """One model is refused for every reason in `exceptions`; nothing was published."""

    def __str__(self) -> str:
        shown = [str(reason) for reason in self.exceptions]
        if len(shown) > SHOWN_REASONS:
            # The last reason may be the layer that causes the others.
            left = len(shown) - SHOWN_REASONS
            shown = [*shown[: SHOWN_REASONS - 1], f"{left} more", shown[-1]]
        return f"{self.message}: {'; '.join(shown)}"
