"""Engines with the plugins, built ahead of time by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from zoo import ZOO

import sige_deploy as sige
from sige_deploy.exporters.tensorrt import for_tensorrt

from .networks import CASES, network
from .packages import BUILDER, library, run

TARGETS = ["SM86", "SM89", "SM120"]
NAMES = {ir.DataType.FLOAT: "FLOAT", ir.DataType.FLOAT16: "HALF"}


def build(scratch: Path, **models: ir.Model) -> list[dict[str, Any]]:
    """Engines of edit graphs, for all targets and with any number of rows."""
    paths = [scratch / f"{name}.onnx" for name in models]
    for path, model in zip(paths, models.values()):
        ir.save(ir.external_data.load_to_model(for_tensorrt(model)), path)
    return run("build_engines.py", BUILDER, scratch, models=[str(p) for p in paths], targets=TARGETS)


@pytest.mark.parametrize("dtype", NAMES)
def test_every_op_becomes_a_plugin(dtype: ir.DataType, tmp_path: Path) -> None:
    built = build(tmp_path, **{case: network(case, dtype) for case in CASES})
    for (case, (*_, shape)), got in zip(CASES.items(), built):
        assert got["plugins"] == [case] == got["stored"], case
        assert got["outputs"] == {"out": [shape, NAMES[dtype]]}, case
        assert got["said"] == [], case


@pytest.mark.parametrize("name", ["unet_transposed", "grid_attention", "bmm_attention"])
def test_an_exported_network_runs_on_plugins(name: str, tmp_path: Path) -> None:
    library()  # skips before the work of an export
    entry = ZOO[name]
    config = sige.SparseConfig(precision="float16", **entry.config)
    sige.export(entry.module(), entry.example_inputs(), tmp_path / name, list(entry.spatial), config)
    edit = ir.load(tmp_path / name / "edit.onnx")
    ours = sorted(node.name or "" for node in edit.graph if node.domain == "sige")
    [got] = build(tmp_path, edit=edit)
    assert got["plugins"] == got["stored"] == ours
    assert got["said"] == []
    assert any(-1 in shape for shape, _ in got["inputs"].values())
    assert {dtype for _, dtype in got["inputs"].values()} <= {"HALF", "INT32"}
