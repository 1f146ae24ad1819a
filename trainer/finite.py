"""A check for NaN and infinity that rarely waits for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first of the named `tensors` that holds NaN or infinity; None if all are finite.

    All tensors are on one device. As long as all numbers are finite, the host waits for the device once.
    """
    floats = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not floats:
        return None
    are_finite = torch.stack([tensor.isfinite().all() for _, tensor in floats])
    if bool(are_finite.all()):
        return None
    return floats[int(are_finite.logical_not().nonzero()[0])][0]
