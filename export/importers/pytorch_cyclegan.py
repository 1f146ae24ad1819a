"""Imports generators of github.com/junyanz/pytorch-CycleGAN-and-pix2pix (Zhu et al. 2017; Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from export.errors import ImporterError
from export.importers.base import Importer, register
from export.state_dicts.foreign import read_state_dict
from export.state_dicts.resnet import has_filters, is_resnet, read_resnet
from export.state_dicts.unet import is_unet, read_unet
from trainer.snapshot import Snapshot


def read(path: Path) -> Snapshot:
    """Return the generator in `path`, residual or U-Net, as a snapshot; its tensors decide the architecture.

    A file named `…G_A` translates AtoB and `…G_B` translates BtoA; with other names the direction is not known. The
    task is "pix2pix" for a U-Net without a direction, and otherwise "cyclegan". A batch norm uses its running
    statistics, as the repository's `test.py --eval` does.

    Raises:
        ImporterError: the file cannot be read, or is not one of the repository's generators.
    """
    foreign = read_state_dict(path)
    if has_filters(foreign.tensors):
        raise ImporterError(f"{path} has anti-aliasing filters and so comes from CUT: import it with --from cut")
    if is_unet(foreign.tensors):
        return read_unet(foreign, "pix2pix" if foreign.direction is None else "cyclegan")
    return read_resnet(foreign, "cyclegan")


def fits(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of one of the repository's generators."""
    return is_unet(tensors) or (is_resnet(tensors) and not has_filters(tensors))


register(Importer("pytorch-cyclegan", read, fits))
