"""The references: a network in torch, or the untouched foreign ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from export import graph
from export.errors import ProofError
from export.feeds import Feeds, shape_text
from export.manifest import GREY_LEVELS
from export.onnx_source import OnnxSource
from export.wrapper import TraceableModel


class TorchReference:
    """Implements `export.model_under_test.Reference` with the network in torch."""

    # The build's local part ("+cpu") says how torch was installed, not which torch it was.
    name = f"torch {torch.__version__.split('+')[0]}"

    clipped_share = 0.0
    """Networks of this project end in a tanh."""

    def __init__(self, traceable: TraceableModel) -> None:
        self._graph = traceable.graph
        self._inputs = [spec.name for spec in traceable.interface.inputs]

    def image(self, feeds: Feeds) -> NDArray[np.float32]:
        """See `Reference.image`."""
        with torch.inference_mode():
            try:
                values = self._graph.values(*(torch.from_numpy(feeds[name]) for name in self._inputs))
            except (RuntimeError, ValueError, IndexError) as error:
                reason = str(error).strip().split("\n", 1)[0]
                raise ProofError(f"torch does not run on input {shape_text(feeds)} ({reason})") from error
            levels: NDArray[np.float32] = ((values + 1) * (GREY_LEVELS / 2)).permute(0, 2, 3, 1).numpy()
        return levels

    def layers(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """See `Reference.layers`; the layers are the modules without submodules."""
        outputs: dict[str, NDArray[Any]] = {}
        modules = self._graph.network.named_modules()
        names = {module: name for name, module in modules if not list(module.children())}

        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if module in names:
                # A copy, since the next layer may work in place.
                outputs[names[module]] = output.detach().clone().numpy()

        hook = register_module_forward_hook(keep)
        try:
            self.image(feeds)
        finally:
            hook.remove()
        return outputs


class OnnxReference:
    """Implements `export.model_under_test.Reference` with the untouched ONNX model."""

    name = f"the original in onnxruntime {onnxruntime.__version__}"

    def __init__(self, source: OnnxSource) -> None:
        self._source = source

    @property
    def clipped_share(self) -> float:
        """See `Reference.clipped_share`."""
        return self._source.clipped / max(self._source.value_count, 1)

    def image(self, feeds: Feeds) -> NDArray[np.float32]:
        """See `Reference.image`."""
        (inputs,) = feeds.values()
        return self._source.images(inputs)

    def layers(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """See `Reference.layers`; the layers are the nodes that have names."""
        outputs = graph.layer_outputs(self._source.model)
        if not outputs:
            return {}
        (inputs,) = feeds.values()
        return dict(zip(outputs, self._source.inner_values(inputs[:1], list(outputs.values())), strict=True))
