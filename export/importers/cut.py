"""Generators of github.com/taesungp/contrastive-unpaired-translation (CUT and FastCUT, Park et al. 2020)."""

from __future__ import annotations

from pathlib import Path

from export.errors import ImporterError
from export.importers.base import Importer, register
from export.state_dicts.checkpoint import read_checkpoint
from export.state_dicts.resnet import read_resnet
from trainer.snapshot import Snapshot

_OTHERS = {"encoder.": "stylegan2", "enc_content.": "resnet_cat"}


def read(path: Path) -> Snapshot:
    """The residual generator in `path` as a snapshot, with or without anti-aliasing, told from its tensors.

    Raises:
        ImporterError: the file cannot be read, or is not one of the repository's residual generators.
    """
    checkpoint = read_checkpoint(path)
    for prefix, kind in _OTHERS.items():
        if any(key.startswith(prefix) for key in checkpoint.tensors):
            raise ImporterError(f"{path} is a {kind} generator, which zorse has not: only --netG resnet_* is imported")
    return read_resnet(checkpoint, "cut")


register(Importer("cut", read))
