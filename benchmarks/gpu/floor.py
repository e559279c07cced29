"""What an edit has to do at least, whoever does it: bytes, operations and launches."""

from __future__ import annotations

from typing import Any

import numpy as np
from measure import LAUNCH_US

from sige_deploy.bundle import Bundle
from sige_deploy.compare import edited_masks
from sige_deploy.indices import Indexer


class Work:
    """What edits of one bundle read and compute."""

    def __init__(self, bundle: Bundle) -> None:
        import onnx

        graph = onnx.load(str(bundle.path("edit.onnx")), load_external_data=False).graph
        self._bundle = bundle
        self._indexer = Indexer(bundle.levels(), bundle.geometries(), bundle.policy())
        self._caches = {c.name: (c.shape, np.dtype(c.dtype).itemsize) for c in bundle.manifest.caches}
        self._nodes = [node for node in graph.node if node.domain == "sige"]
        self._inputs = {value.name for value in graph.input}
        self.weight_bytes = sum(
            int(np.prod(t.dims)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
            for t in graph.initializer
        )

    def of(self, recorded: dict[str, np.ndarray], edited: dict[str, np.ndarray]) -> dict[str, float]:
        """Of one edit: `weight_mb` and `base_mb` that it reads, and its `gflop`."""
        indices = self._indexer.build(edited_masks(self._bundle, recorded, edited), only=self._inputs)
        base_bytes = sum(self._base_bytes(node, indices.feeds) for node in self._nodes)
        flops = 2 * sum(
            level.macs * indices.counts[level.id] / (level.height * level.width)
            for level in self._bundle.manifest.levels
        )
        return {"weight_mb": self.weight_bytes / 1e6, "base_mb": base_bytes / 1e6, "gflop": flops / 1e9}

    def _base_bytes(self, node: Any, feeds: dict[str, np.ndarray]) -> int:
        """Recorded values that an op reads: its base's halo; of attention, all keys and values."""
        caches = [self._caches[name] for name in node.input if name in self._caches]
        whole = [int(np.prod(shape)) * size for shape, size in caches]
        if node.op_type == "Attention":
            return sum(whole)
        halo = next(
            (feeds[name].size for name in node.input if name.startswith("halo.") and name in feeds), None
        )
        if halo is None or not caches:
            return 0
        (batch, _, channels), size = caches[0]
        return batch * halo * channels * size


def floor_of(work: dict[str, float], launches: int, bandwidth: float, rate: float) -> dict[str, Any]:
    """Work and `launches` with the ms that each takes alone, and `ms`, the largest of these. bandwidth: bytes
    per second of a copy; rate: floating-point operations per second of a large product."""
    parts = {
        "bytes_ms": (work["weight_mb"] + work["base_mb"]) * 1e6 / bandwidth * 1e3,
        "flop_ms": work["gflop"] * 1e9 / rate * 1e3,
        "launch_ms": launches * LAUNCH_US / 1e3,
    }
    return {**work, "launches": launches, **parts, "ms": max(parts.values())}
