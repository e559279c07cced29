"""TensorRT itself: engines that are built and run on this machine's GPU, against the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checking import blob_and_dust, edited
from zoo import ZOO

import sige_deploy as sige
from sige_deploy.bench import always_sparse
from sige_deploy.engines import Flavour
from sige_deploy.runtimes.base import create
from sige_deploy.runtimes.tensorrt_packages import PACKAGES, installed
from sige_deploy.session import Session

Inputs = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    """An installed TensorRT that runs on this machine's GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch with CUDA")
    capability = torch.cuda.get_device_capability()
    for name in PACKAGES:
        unfit = name == "tensorrt-rtx" and capability in ((9, 0), (10, 0), (10, 3))
        package = None if unfit else installed(name)
        if package is not None and hasattr(package.module, "Builder"):
            return name
    pytest.skip("needs TensorRT, or TensorRT for RTX and a GPU that it knows")


@pytest.mark.parametrize("precision", ["as_given", "float16"])
@pytest.mark.parametrize("name", ["batch2_time_unet", "grid_attention", "inpainting"])
def test_edits_equal_those_of_the_cpu(name: str, precision: str, flavour: Flavour, tmp_path: Path) -> None:
    from sige_deploy.exporters.tensorrt import build

    entry = ZOO[name]
    config = sige.SparseConfig(precision=precision, **entry.config)
    path = tmp_path / name
    sige.export(entry.module(), entry.example_inputs(0), path, spatial=list(entry.spatial), config=config)
    build(path, flavour)
    bundle = always_sparse(sige.open_bundle(path))
    types = {spec.name: getattr(torch, spec.dtype) for spec in bundle.manifest.inputs}
    bound = 2e-2 if precision == "float16" else 1e-3

    def cast(inputs: Inputs) -> Inputs:
        return {name: value.to(types[name]) for name, value in inputs.items()}

    recorded = cast(entry.example_inputs(1))
    with (
        Session(bundle, create(None, bundle, "cpu", None)) as cpu,
        Session(bundle, create("tensorrt", bundle, "cuda:0", None)) as gpu,
    ):
        close(cpu.record(**recorded), gpu.record(**recorded), bound)
        cpu.save(tmp_path / "state")
        gpu.load(tmp_path / "state")
        captured = []
        for seed in (2, 3, 2, 3, 2):  # a size that comes again is captured, and launched from then on
            mask, inputs = blob_and_dust(entry, seed), cast(edited(entry, recorded, seed))
            close(cpu.edit(**inputs, mask=mask), gpu.edit(**inputs, mask=mask), bound)
            captured.append(gpu.report.captured)
        assert captured[-1]


def close(wanted: Inputs, got: Inputs, bound: float) -> None:
    for name, value in wanted.items():
        value, other = value.double(), got[name].double()
        assert float((value - other).abs().max()) <= bound * max(1.0, float(value.abs().max())), name
