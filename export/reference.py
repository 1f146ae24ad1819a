"""What a model must agree with: its network in torch, or the foreign model that it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export import graph
from export.errors import ImporterError, ProofError
from export.manifest import GREY_LEVELS
from export.original import Original
from export.wrapper import Wrapped


class TorchReference:
    """Implements `export.candidate.Reference`."""

    # The build's local part ("+cpu") says how torch was installed, not which torch it was.
    name = f"torch {torch.__version__.split('+')[0]}"

    clipped_share = 0.0
    """Our networks end in a tanh."""

    def __init__(self, wrapped: Wrapped) -> None:
        self._graph = wrapped.graph

    def image(self, given: NDArray[Any]) -> NDArray[np.float32]:
        """See `Reference.image`."""
        with torch.inference_mode():
            try:
                values = self._graph.values(torch.from_numpy(given))
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().split("\n", 1)[0]
                raise ProofError(f"torch does not run on input {given.shape} ({reason})") from error
            levels: NDArray[np.float32] = ((values + 1) * (GREY_LEVELS / 2)).permute(0, 2, 3, 1).numpy()
        return levels

    def layers(self, given: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """See `Reference.layers`; those are the modules that hold no others."""
        outputs: dict[str, NDArray[Any]] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                # A copy, since the layer behind it may work in place.
                outputs[name] = output.detach().clone().numpy()

            return hook

        leaves = [(name, module) for name, module in self._graph.network.named_modules() if not list(module.children())]
        hooks = [module.register_forward_hook(keep(name)) for name, module in leaves]
        try:
            self.image(given)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


class OriginalReference:
    """Implements `export.candidate.Reference` with the untouched model."""

    name = f"the original in onnxruntime {onnxruntime.__version__}"

    def __init__(self, original: Original) -> None:
        self._original = original

    @property
    def clipped_share(self) -> float:
        """See `Reference.clipped_share`."""
        return self._original.clipped / max(self._original.made_values, 1)

    def image(self, given: NDArray[Any]) -> NDArray[np.float32]:
        """See `Reference.image`."""
        try:
            return self._original.images(given)
        except ImporterError as error:
            raise ProofError(str(error)) from error

    def layers(self, given: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """See `Reference.layers`; those are the nodes that have names."""
        outputs = graph.layer_outputs(self._original.model)
        if not outputs:
            return {}
        return dict(zip(outputs, self._original.inner(given[:1], list(outputs.values())), strict=True))
