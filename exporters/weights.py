"""One safetensors file as the external data of all graphs of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHTS = "weights.safetensors"
INLINE_BYTES = 1024  # smaller tensors stay in the graph: shapes, scalars


def write_weights(models: Iterable[ir.Model], folder: Path) -> int:
    """Move all large initializers into ``folder/weights.safetensors``; equal names share one copy. Returns
    the number of bytes."""
    import onnx_ir as ir
    from safetensors.numpy import save_file

    from sige_deploy.graph.builder import as_shape

    tensors: dict[str, ir.TensorProtocol] = {}
    users: dict[str, list[ir.Value]] = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes > INLINE_BYTES and tensor.dtype != ir.DataType.STRING:
                known = tensors.setdefault(name, tensor)
                assert known.shape == tensor.shape and known.dtype == tensor.dtype, name
                users.setdefault(name, []).append(value)
    path = folder / WEIGHTS
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    save_file(arrays, path, {"format": "sige_deploy"})
    del arrays
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, values in users.items():
        begin, end = header[name]["data_offsets"]
        tensor = tensors[name]
        external = ir.ExternalTensor(
            WEIGHTS, 8 + length + begin, end - begin, tensor.dtype, shape=as_shape(tensor), name=name,
            base_dir=folder,
        )  # fmt: skip
        for value in values:
            value.const_value = external
    return sum(t.nbytes for t in tensors.values())


def _array(name: str, tensor: ir.TensorProtocol) -> np.ndarray:
    if tensor.dtype.itemsize < 1 or tensor.dtype.name.startswith(("FLOAT8", "FLOAT4", "BFLOAT")):
        raise ExportError(
            f"Weight {name} has type {tensor.dtype.name}, which bundles cannot hold; convert it to float16 "
            "or float32."
        )
    return np.ascontiguousarray(tensor.numpy())
