"""A bundle made by hand, so that bundles, runtimes and sessions are tested without the exporter.

h = image * gain;  y = conv3x3(h) + bias + offset;  total = sum(offset)

image [2, 3, 16, 24] spatial; gain [1] pinned; offset [1, 4, 1, 1] free; y [2, 4, 16, 24] spatial; total [1]
not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from safetensors.numpy import load_file, save_file

from sige_deploy import files, ops
from sige_deploy.bundle import Bundle, write_bundle
from sige_deploy.geometry import Geometry, geometries_to_tensors, window
from sige_deploy.manifest import (
    CacheSpec,
    GeometrySpec,
    InputSpec,
    LevelSpec,
    Manifest,
    OutputSpec,
    PlannerSpec,
)
from sige_deploy.masks import dilate

B, C, H, W, OUT = 2, 3, 16, 24, 4
LEVEL, CONV3 = f"{H}x{W}", "conv3"
_rng = np.random.default_rng(7)
WEIGHT = _rng.standard_normal((OUT, C, 3, 3)).astype(np.float32)
BIAS = _rng.standard_normal(OUT).astype(np.float32)


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of the network."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.standard_normal((B, C, H, W)).astype(np.float32),
        "gain": np.array([1.5], np.float32),
        "offset": rng.standard_normal((1, OUT, 1, 1)).astype(np.float32),
    }


def edited(original: dict[str, np.ndarray], y: slice, x: slice, by: float = 1.0) -> dict[str, np.ndarray]:
    """The same inputs with `by` added to a box of the image."""
    image = original["image"].copy()
    image[:, :, y, x] += by
    return {**original, "image": image}


def dense(image: np.ndarray, gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """y in float64, in plain numpy."""
    h = np.pad(image.astype(np.float64) * gain, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = np.stack([h[:, :, ky : ky + H, kx : kx + W] for ky in range(3) for kx in range(3)], axis=2)
    y = np.einsum("nckyx,ock->noyx", taps, WEIGHT.reshape(OUT, C, 9))
    return y + BIAS[:, None, None] + offset


def sparse(base: dict[str, np.ndarray], edit: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    """y of the approximation: recorded values outside the dilated mask, exact ones of the composite "
    "inside."""
    active = dilate(mask, 1)
    composite = np.where(active, edit["image"], base["image"])
    return np.where(active, dense(composite, edit["gain"], edit["offset"]), dense(**base))


def changed(base: dict[str, np.ndarray], edit: dict[str, np.ndarray]) -> np.ndarray:
    """The difference mask, bool [H, W]."""
    return (base["image"] != edit["image"]).any(axis=(0, 1))


def write_tiny(path: Path, dense_above: float = 0.6, schema: dict[str, object] | None = None) -> Bundle:
    """Write the bundle. `schema` replaces fields of its manifest."""
    geometry = Geometry(CONV3, LEVEL, LEVEL, window(H, 3, pad=(1, 1)), window(W, 3, pad=(1, 1)))
    manifest = Manifest(
        name="tiny",
        inputs=[
            InputSpec(
                name="image", shape=[B, C, H, W], dtype="float32", role="spatial", level=LEVEL,
                axes=["N", "C", "Y", "X"],
            ),
            InputSpec(
                name="gain", shape=[1], dtype="float32", role="pinned", reason="it scales the cached h"
            ),
            InputSpec(name="offset", shape=[1, OUT, 1, 1], dtype="float32", role="free"),
        ],
        outputs=[
            OutputSpec(
                name="y", shape=[B, OUT, H, W], dtype="float32", level=LEVEL, order=[0],
                layout=[[("N", B)], [("C", OUT)], [("Y", H)], [("X", W)]],
            ),
            OutputSpec(name="total", shape=[1], dtype="float32"),
        ],
        levels=[LevelSpec(id=LEVEL, height=H, width=W, macs=B * H * W * C * OUT * 9)],
        geometries=[GeometrySpec(id=CONV3, source=LEVEL, target=LEVEL)],
        caches=[
            CacheSpec(
                name="base.h", kind="base", shape=[B, H * W, C], dtype="float32", level=LEVEL, rows="rows.h",
                reads=[CONV3],
            ),
            CacheSpec(name="static.gain", kind="static", shape=[1, 1, C], dtype="float32"),
        ],
        planner=PlannerSpec(dense_above=dense_above),
        precision="float32",
        macs=B * H * W * C * OUT * 9,
        parameters=WEIGHT.size + BIAS.size,
    )  # fmt: skip
    if schema:
        manifest = Manifest.model_validate(manifest.model_dump() | schema)
    with write_bundle(path) as writer:
        onnx.save(_dense_model(record=False), writer.folder / "dense.onnx")
        onnx.save(_dense_model(record=True), writer.folder / "record.onnx")
        edit = _edit_model()
        onnx.save(edit, writer.folder / "edit.onnx")
        onnx.save(inline_local_functions(edit), writer.folder / "edit_inlined.onnx")
        save_file({"weight": WEIGHT, "bias": BIAS}, writer.folder / "weights.safetensors")
        save_file(geometries_to_tensors([geometry]), writer.folder / "geometry.safetensors")
        return writer.finish(manifest)


def rewrite_checksums(path: Path) -> None:
    """Have the manifest of a bundle say what its files are now."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, spec in manifest["files"].items():
        spec |= {"sha256": files.sha256(path / name), "bytes": (path / name).stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _index(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, shape)


def _constant(name: str, value: object, dtype: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def _model(graph: onnx.GraphProto, functions: list[onnx.FunctionProto] | None = None) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", ops.OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def _dense_model(record: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["image", "gain"], ["h"]),
        helper.make_node("Conv", ["h", "weight", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["convolved", "offset"], ["y"]),
        helper.make_node("ReduceSum", ["offset", "all"], ["sum"], keepdims=1),
        helper.make_node("Reshape", ["sum", "one"], ["total"]),
    ]
    outputs = [_float("y", B, OUT, H, W), _float("total", 1)]
    constants = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(BIAS, "bias"),
        _constant("all", [0, 1, 2, 3]),
        _constant("one", [1]),
    ]
    if record:
        nodes += [
            helper.make_node("Transpose", ["h"], ["h_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["h_last", "rows"], ["base.h"]),
            helper.make_node("Expand", ["gain", "wide"], ["static.gain"]),
        ]
        outputs += [_float("base.h", B, H * W, C), _float("static.gain", 1, 1, C)]
        constants += [_constant("rows", [B, H * W, C]), _constant("wide", [1, 1, C])]
    graph_inputs = [_float("image", B, C, H, W), _float("gain", 1), _float("offset", 1, OUT, 1, 1)]
    return _model(helper.make_graph(nodes, "dense", graph_inputs, outputs, constants))


def _edit_model() -> onnx.ModelProto:
    taps = np.ascontiguousarray(WEIGHT.transpose(2, 3, 1, 0)).reshape(9, C, OUT)
    conv_inputs = ["rows.h", "base.h", f"halo.{CONV3}", f"table.{CONV3}", "taps", "bias"]
    conv = onnx_ir.Node(ops.DOMAIN, "Conv", [onnx_ir.Value(name=n) for n in conv_inputs], num_outputs=1)
    function = onnx_ir.to_proto(ops.function_for(conv))
    nodes = [
        helper.make_node("Mul", ["rows.image", "static.gain"], ["rows.h"]),
        helper.make_node("Conv", conv_inputs, ["convolved"], domain=ops.DOMAIN, overload=function.overload),
        helper.make_node("Reshape", ["offset", "last"], ["offset_last"]),
        helper.make_node("Add", ["convolved", "offset_last"], ["rows.y"]),
        helper.make_node("ReduceSum", ["offset", "all"], ["sum"], keepdims=1),
        helper.make_node("Reshape", ["sum", "one"], ["total"]),
    ]
    graph_inputs = [
        _float("rows.image", B, "P", C), _float("offset", 1, OUT, 1, 1),
        _float("base.h", B, H * W, C), _float("static.gain", 1, 1, C),
        _index(f"halo.{CONV3}", "Q"), _index(f"table.{CONV3}", "P", 9),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(taps, "taps"),
        numpy_helper.from_array(BIAS, "bias"),
        _constant("last", [1, 1, OUT]),
        _constant("all", [0, 1, 2, 3]),
        _constant("one", [1]),
    ]
    outputs = [_float("rows.y", B, "P", OUT), _float("total", 1), _float("rows.h", B, "P", C)]
    return _model(helper.make_graph(nodes, "edit", graph_inputs, outputs, constants), [function])


def damage_tables(folder: Path, how: str) -> None:
    """Damage the geometry of a bundle in one of several ways, under checksums that fit."""
    file = folder / "geometry.safetensors"
    tables = load_file(file)
    index = tables["conv3.y.index"]
    if how == "no index":
        del tables["conv3.y.index"]
    elif how == "float index":
        tables["conv3.y.index"] = index.astype(np.float64)
    elif how == "out of range":
        tables["conv3.y.index"] = index + 40
    elif how == "no taps":
        tables["conv3.y.index"] = index[:, :0].copy()
    elif how == "weight":
        tables["conv3.y.weight"] = np.full(index.shape, np.nan, np.float32)
    elif how == "phase":
        tables["conv3.y.phase"] = np.zeros(len(index), np.int32)
    elif how == "other level":
        tables["conv3.y.index"] = index[1:].copy()
    save_file(tables, file)
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:5])
    rewrite_checksums(folder)
