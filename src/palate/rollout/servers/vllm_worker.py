"""What a worker of vLLM learns from us: to pack the head again after new weights, where it is tied to the embeddings.

On a processor vLLM multiplies by packed copies of its weights. A reload packs a layer again when it has read weights of
its own; a tied head has none in a checkpoint, so it is given back the memory that the embeddings' new numbers are in,
and goes on multiplying by its copy of the old ones (seen in 0.32; docs/guides/vllm.md). On a GPU nothing is packed.

This file is imported by vLLM's Python (`--worker-extension-cls`), so it imports nothing of ours.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

METHOD = "pack_tied_weights"
"""What a server is told to call, by `/collective_rpc`."""


class PacksTiedWeights:
    """One more method of a worker's; the model is vLLM's."""

    model_runner: Any

    def pack_tied_weights(self) -> int:
        """Pack every layer anew that shares its weight with another one; how many were packed."""
        layers = [layer for layer in self.model_runner.get_model().modules() if _weight(layer) is not None]
        often = Counter(id(_weight(layer)) for layer in layers)
        tied = [layer for layer in layers if often[id(_weight(layer))] > 1 and hasattr(layer, "cpu_linear")]
        for layer in tied:
            layer.quant_method.process_weights_after_loading(layer)
        return len(tied)


def _weight(layer: Any) -> Any:
    return layer._parameters.get("weight")
