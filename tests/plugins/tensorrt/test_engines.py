"""An engine of each op, built ahead of time by TensorRT for RTX on a machine without a GPU.

Those of whole networks are tested in tests/exporters/test_tensorrt_build.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from sige_deploy.exporters.tensorrt_graph import for_tensorrt

from .networks import CASES, network
from .packages import BUILDER, run

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
