"""The Metal kernels as custom layers of the interpreter in sige_deploy.coreml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sige_deploy.coreml.context import Context
from sige_deploy.coreml.layers import Layer, weight_shapes
from sige_deploy.coreml.numpy_layers import Implementation, to_rows, to_tensor
from sige_deploy.ops import SIGNATURES

from .kernels import MetalKernels


def metal_layers(kernels: MetalKernels) -> Mapping[str, Implementation]:
    """By class name; tensors and recorded arrays are rounded to float16."""

    def run(layer: Layer, tensors: Sequence[np.ndarray], context: Context) -> np.ndarray:
        p = layer.parameters
        given: dict[str, Any] = {name: _half(to_rows(x)) for name, x in zip(layer.inputs, tensors)}
        for name in ("base", "base_2", "k_base", "v_base"):
            if p.get(name):
                given[name] = _half(context.arrays[p[name]])
        for name in ("scale", "shift"):
            if p.get(f"{name}_name"):
                given[name] = _half(context.arrays[p[f"{name}_name"]])
        for name, shape in weight_shapes(layer).items():
            given[name] = layer.weights[name].reshape(shape)
        if p.get("geometry"):
            given |= {"table": context.tables[p["geometry"]], "halo": context.halos[p["geometry"]]}
        if layer.op == "Scatter" or "k" in given:
            given["active"] = context.active[p["level"]]
        signature = SIGNATURES[layer.op]
        told = {name: p[name] for name in signature.attributes}
        op = getattr(kernels, layer.op.lower())
        arrays = (given.get(name) for name in signature.inputs)
        return to_tensor(op(*arrays, **told, live=context.counts[p["level"]]))

    return {f"SIGE{op}": run for op in SIGNATURES}


def _half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16)
