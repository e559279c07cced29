"""Whole exported networks on engines of TensorRT's stand-in against the same on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorrt_stand_in as stand_in
from checking import blob_and_dust, edited
from devices.test_networks import close, same, state
from fake_tensorrt import World
from tensorrt_stand_in import Make, installed, library, on_tensorrt, world
from zoo import ZOO

import sige_deploy as sige
from sige_deploy import native
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.session import Session

__all__ = ["installed", "library", "on_tensorrt", "world"]


@pytest.mark.parametrize("name", ["batch2_time_unet", "grid_attention", "inpainting"])
def test_equal_bits_with_the_host(
    name: str,
    on_tensorrt: Make,
    world: World,
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
    stand_in.write_engines(bundle, stand_in.plugin_spec(library))
    recorded = entry.example_inputs(1)
    with Session(bundle, OnnxRuntime(bundle, "cpu", 1)) as one, Session(bundle, on_tensorrt(bundle)) as other:
        close(one.record(**recorded), other.record(**recorded))
        for seed in range(2, 7):
            one.save(tmp_path / "state")
            other.load(tmp_path / "state")
            mask = blob_and_dust(entry, seed) | (seed == 5)
            inputs = edited(entry, recorded, seed)
            wanted, got = one.edit(**inputs, mask=mask), other.edit(**inputs, mask=mask)
            assert one.report.path == other.report.path == ("dense" if seed == 5 else "sparse")
            (close if seed == 5 else same)(wanted, got)
            one.commit()
            other.commit()
            (close if seed == 5 else same)(*(state(s, tmp_path / "committed") for s in (one, other)))
    assert world.engines == 3
