"""Whole exported networks: native kernels against function bodies on the same base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checking import blob_and_dust, edited
from zoo import ZOO

import sige_deploy as sige
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.session import Session

# GroupNorm and embeddings; attention; overlays for dense islands; depthwise convs; pooling windows
NETWORKS = ["batch2_time_unet", "grid_attention", "island_flip", "separable_dilated", "bilinear_pools"]


@pytest.mark.parametrize("name", NETWORKS)
def test_native_kernels_give_what_function_bodies_give(name: str, chosen: Path, tmp_path: Path) -> None:
    entry = ZOO[name]
    config = sige.SparseConfig(dense_above=1.0, **entry.config)
    path = tmp_path / name
    bundle = sige.export(
        entry.module(), entry.example_inputs(0), path, spatial=list(entry.spatial), config=config
    )
    recorded = entry.example_inputs(1)
    with (
        Session(bundle, OnnxRuntime(bundle, "cpu", 1)) as native,
        Session(bundle, OnnxRuntime(bundle, "cpu", 1, kernels=False)) as bodies,
    ):
        for session in (native, bodies):
            session.record(**recorded)
        for seed in range(2, 4):
            mask, inputs = blob_and_dust(entry, seed), edited(entry, recorded, seed)
            got, want = (session.edit(**inputs, mask=mask) for session in (native, bodies))
            for key, value in want.items():
                assert isinstance(value, torch.Tensor)
                bound = 1e-5 * max(1.0, float(value.abs().max()))
                assert float((got[key] - value).abs().max()) <= bound
            native.commit()
            bodies.commit()
        assert native.report.runtime == "onnxruntime cpu, native kernels"
        assert bodies.report.runtime == "onnxruntime cpu"
