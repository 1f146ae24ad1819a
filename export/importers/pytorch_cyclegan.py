"""Generators of github.com/junyanz/pytorch-CycleGAN-and-pix2pix (Zhu et al. 2017; Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from export.errors import ImporterError
from export.importers.base import Importer, register
from export.state_dicts.checkpoint import read_checkpoint
from export.state_dicts.resnet import has_filters, is_resnet, read_resnet
from export.state_dicts.unet import is_unet, read_unet
from trainer.snapshot import Snapshot


def read(path: Path) -> Snapshot:
    """Return the generator in `path`, residual or U-Net, as a snapshot; its architecture is told from its tensors.

    `…G_A` translates AtoB and `…G_B` BtoA; of other names the direction is not known. The task is pix2pix for a U-Net
    whose name has no such letter, else cyclegan. A batch norm uses its running statistics, as the repository's
    `test.py --eval` does.

    Raises:
        ImporterError: the file cannot be read, or is not one of the repository's generators.
    """
    checkpoint = read_checkpoint(path)
    if has_filters(checkpoint.tensors):
        raise ImporterError(f"{path} has anti-aliasing filters and so comes from CUT: import it with --from cut")
    if is_unet(checkpoint.tensors):
        return read_unet(checkpoint, "pix2pix" if checkpoint.direction is None else "cyclegan")
    return read_resnet(checkpoint, "cyclegan")


def fits(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these are the tensors of one of the repository's generators."""
    return is_unet(tensors) or (is_resnet(tensors) and not has_filters(tensors))


register(Importer("pytorch-cyclegan", read, fits))
