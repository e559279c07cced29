"""Native kernels held against function bodies, layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo import ZOO

import sige_deploy as sige
from sige_deploy.comparator import Tolerance, compare_layers, compare_outputs
from sige_deploy.layers import OnnxRuntimeSide, reference
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.workload import make_edit, make_inputs


@pytest.mark.parametrize("name", ["grid_attention"])
def test_native_kernels_agree_with_function_bodies(name: str, chosen: Path, tmp_path: Path) -> None:
    entry = ZOO[name]
    config = sige.SparseConfig(**entry.config)
    bundle = sige.export(
        entry.module(), entry.example_inputs(0), tmp_path / name, list(entry.spatial), config
    )
    recorded = make_inputs(bundle.manifest)
    edited, _ = make_edit(bundle.manifest, recorded, 0.1, "blobs")
    close = Tolerance(1e-5, 1e-5)
    native, bodies = OnnxRuntimeSide.of(bundle, "cpu", 1), OnnxRuntimeSide("onnxruntime cpu", 1)
    assert native.name == "onnxruntime cpu, native kernels"
    layers = compare_layers(bundle, native, bodies, "edit", recorded, edited, tolerance=close)
    assert layers.first is None
    assert {value.operator.split()[0] for value in layers.values} >= {"Attention", "Conv"}
    assert max(value.max_absolute for value in layers.values) > 0  # not one engine twice
    engines = OnnxRuntime(bundle, "cpu", 1), reference(bundle, 1)
    assert compare_outputs(bundle, *engines, "edit", recorded, edited, tolerance=close).first is None
