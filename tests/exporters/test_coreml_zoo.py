"""Architectures of the zoo as Core ML models: edits and dense passes as ONNX Runtime has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from checking import blob_and_dust, edited
from coreml_edits import Edit, error
from zoo import ZOO

import sige_deploy as sige
from sige_deploy.coreml.checker import faults
from sige_deploy.coreml.program import Package, ProgramInterpreter
from sige_deploy.exporters.coreml_buckets import buckets
from sige_deploy.exporters.coreml_edit import edit_model
from sige_deploy.exporters.coreml_record import record_package

pytest.importorskip("coremltools", reason="coremltools is not installed")
EDITS = ("odd_sizes", "two_inputs", "valid_convs", "replicate_circular")
RECORDS = ("valid_convs", "text_transformer", "modulated", "time_unet")


def case(name: str, folder: Path, precision: str = "as_given") -> Edit:
    entry = ZOO[name]
    config = sige.SparseConfig(**{**entry.config, "precision": precision})
    inputs = entry.example_inputs(0)
    bundle = sige.export(
        entry.module(), inputs, folder / name, list(entry.spatial), config, free=list(entry.free)
    )
    before = entry.example_inputs(1)
    after = edited(entry, before, 2)
    types = {spec.name: spec.dtype for spec in bundle.manifest.inputs}
    arrays = ({k: value.numpy().astype(types[k]) for k, value in given.items()} for given in (before, after))
    return Edit(bundle, *arrays, blob_and_dust(entry, 2))


def run_record(edit: Edit, folder: Path) -> float:
    """Largest error of the record model among its outputs."""
    inputs, outputs = record_package(ir.load(edit.bundle.path("record.onnx")), folder / "record.mlpackage")
    interpreter = ProgramInterpreter(Package(folder / "record.mlpackage"))
    got = interpreter.predict({given: edit.recorded[name] for given, name in inputs.items()})
    return max(error(got[given], edit.record[name]) for given, name in outputs.items())


@pytest.mark.parametrize("name", EDITS)
def test_an_edit(name: str, tmp_path: Path) -> None:
    edit = case(name, tmp_path)
    sizes = buckets(edit.bundle.manifest)
    rows = sizes[edit.bucket(sizes)]
    model = edit_model(ir.load(edit.bundle.path("edit.onnx")), edit.bundle.manifest, rows, 1)
    assert list(faults(model)) == []
    (tmp_path / "edit.mlmodel").write_bytes(model.SerializeToString())
    got = edit.run(tmp_path / "edit.mlmodel", rows)
    for output, expected in edit.expected.items():
        assert error(got[output], expected) < 2e-3, output


@pytest.mark.parametrize("name", RECORDS)
def test_a_record(name: str, tmp_path: Path) -> None:
    assert run_record(case(name, tmp_path), tmp_path) < 1e-5


def test_a_record_in_float16(tmp_path: Path) -> None:
    edit = case("valid_convs", tmp_path, "float16")
    assert edit.bundle.manifest.precision == "float16"
    assert run_record(edit, tmp_path) < 5e-3
    constants = [
        np.asarray(package.constant(x.attributes["val"])).dtype
        for package in [Package(tmp_path / "record.mlpackage")]
        for x in package.operations
        if x.type == "const" and x.attributes["val"].WhichOneof("value") == "blobFileValue"
    ]
    assert constants and set(constants) == {np.dtype(np.float16)}


@pytest.mark.parametrize("damage", ["cut", "unknown", "unread", "twice"])
def test_a_damaged_record_is_found(damage: str, tmp_path: Path) -> None:
    edit = case("valid_convs", tmp_path)
    record_package(ir.load(edit.bundle.path("record.onnx")), tmp_path / "record.mlpackage")
    package = Package(tmp_path / "record.mlpackage")
    last = package.operations[-1]
    if damage == "cut":
        package.weights = package.weights[:-100]
    elif damage == "unknown":
        last.type = "custom_layer"
    elif damage == "unread":
        last.inputs["x"].arguments[0].name = "nothing"
    else:
        last.outputs[0].name = package.operations[-3].outputs[0].name
    said = {
        "cut": r"its weights end at byte \d+, the file at",
        "unknown": "is no operation that the exporter writes",
        "unread": "reads 'nothing', which nothing in front of it gives",
        "twice": "which is given already",
    }
    with pytest.raises(sige.ExportError, match=said[damage]):
        ProgramInterpreter(package)
