"""Whole exported networks on buffers against the same on arrays: equal bits from the same recorded state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checking import blob_and_dust, edited
from zoo import ZOO

import sige_deploy as sige
from sige_deploy import caches, native
from sige_deploy.bundle import Bundle
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

# Time steps and GroupNorm; attention; dense islands; two spatial inputs; pooling with weights; phases; a
# weight that ONNX Runtime's optimizer would transpose
NETWORKS = [
    "batch2_time_unet",
    "grid_attention",
    "island_flip",
    "inpainting",
    "bilinear_pools",
    "pixel_shuffle",
    "positions_and_gates",
]


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_bits_with_the_host(
    name: str,
    on_buffers: Callable[[Bundle], OnnxRuntimeOnBuffers],
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv(native.VARIABLE, str(library))
    entry = ZOO[name]
    config = sige.SparseConfig(dense_above=0.8, **entry.config)
    path = tmp_path / name
    bundle = sige.export(
        entry.module(), entry.example_inputs(0), path, spatial=list(entry.spatial), config=config
    )
    recorded = entry.example_inputs(1)
    with Session(bundle, OnnxRuntime(bundle, "cpu", 1)) as one, Session(bundle, on_buffers(bundle)) as other:
        close(one.record(**recorded), other.record(**recorded))  # here weights are laid out anew, not folded
        for seed in range(2, 8):
            one.save(tmp_path / "state")
            other.load(tmp_path / "state")
            mask = blob_and_dust(entry, seed) | (seed == 5)
            inputs = edited(entry, recorded, seed)
            same(one.edit(**inputs, mask=mask), other.edit(**inputs, mask=mask))
            assert one.report.path == other.report.path == ("dense" if seed == 5 else "sparse")
            assert one.report.rows == other.report.rows
            one.commit()
            other.commit()
            states = [state(session, tmp_path / "committed") for session in (one, other)]
            (close if seed == 5 else same)(*states)
        assert other.report.cache_bytes == one.report.cache_bytes


def state(session: Session, file: Path) -> dict[str, torch.Tensor]:
    """What the session would save."""
    session.save(file)
    arrays = caches.load(file, session.bundle.manifest)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def same(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    assert list(wanted) == list(got)
    for name, value in wanted.items():
        assert torch.equal(value, got[name]), (name, float((value - got[name]).abs().max()))


def close(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        bound = 1e-4 * max(1.0, float(value.abs().max()))
        assert float((value - got[name]).abs().max()) <= bound, name
