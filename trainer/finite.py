"""The check that numbers are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first of the named `tensors`, all on one device, that holds NaN or infinity, if any does.

    While all numbers are finite the device is waited for once, whatever the number of tensors.
    """
    floats = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not floats:
        return None
    are_finite = torch.stack([tensor.isfinite().all() for _, tensor in floats])
    if bool(are_finite.all()):
        return None
    return floats[int(are_finite.logical_not().nonzero()[0])][0]
