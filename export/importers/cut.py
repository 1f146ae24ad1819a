"""Imports generators of github.com/taesungp/contrastive-unpaired-translation (CUT and FastCUT, Park et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from export.errors import OTHER_WAY, ImporterError
from export.importers.base import Importer, register
from export.state_dicts.foreign import read_state_dict
from export.state_dicts.resnet import has_filters, is_resnet, read_resnet
from export.state_dicts.unet import is_unet, read_unet
from trainer.snapshot import Snapshot

_OTHERS = {"encoder.": "stylegan2", "enc_content.": "resnet_cat"}


def read(path: Path) -> Snapshot:
    """Return the generator in `path` as a snapshot: residual, with or without anti-aliasing, or a U-Net.

    Raises:
        ImporterError: the file cannot be read, or is not one of the repository's residual generators or U-Nets.
    """
    foreign = read_state_dict(path)
    for prefix, kind in _OTHERS.items():
        if any(key.startswith(prefix) for key in foreign.tensors):
            raise ImporterError(
                f"{path} is a {kind} generator, which is not supported (only --netG resnet_* and unet_*): {OTHER_WAY}"
            )
    return read_unet(foreign, "cut") if is_unet(foreign.tensors) else read_resnet(foreign, "cut")


def fits(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether only CUT has such a generator: an anti-aliased one."""
    return is_resnet(tensors) and has_filters(tensors)


register(Importer("cut", read, fits))
