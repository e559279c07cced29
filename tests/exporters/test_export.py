from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.helpers import Laws, ints, network, weight

import sige_deploy as sige

X = np.zeros((1, 4, 12, 10), np.float32)
CONV = {"w": weight(3, 4, 3, 3)}


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def conv() -> onnx.ModelProto:
    return network("y = Conv<pads=[1,1,1,1]>(x, w)", weights=CONV)


# ---- what it says ------------------------------------------------------------------------------------------


def test_manifest(tmp_path: Path) -> None:
    config = sige.SparseConfig(dilate=2, threshold=0.2, dense_above=0.5, eps=0.01, granularity=2)
    bundle = sige.export(saved(conv(), tmp_path), {"x": X}, tmp_path / "bundle", ["x"], config)
    manifest = bundle.manifest
    assert manifest.name == "net"
    assert [(i.name, i.shape, i.dtype, i.role, i.level, i.axes) for i in manifest.inputs] == [
        ("x", [1, 4, 12, 10], "float32", "spatial", "12x10", ["N", "C", "Y", "X"])
    ]
    assert [(o.name, o.shape, o.level) for o in manifest.outputs] == [("y", [1, 3, 12, 10], "12x10")]
    assert manifest.policy.dilate == 2
    assert manifest.policy.eps == 0.01
    assert manifest.planner.dense_above == 0.5
    assert manifest.levels[0].granularity == 2
    assert manifest.macs == 12 * 10 * 3 * 4 * 9
    assert manifest.parameters == 3 * 4 * 9
    assert manifest.islands == []
    assert {"torch", "onnx", "sige_deploy"} <= set(manifest.producer)


def test_values_take_the_outputs_names(tmp_path: Path) -> None:
    """Only a second name of one value, and the input that is a base, are copied."""
    model = network(
        "r = Relu(x) y = Conv<pads=[1,1,1,1]>(r, w) z = Conv<pads=[1,1,1,1]>(x, w) s = Identity(r)",
        outputs="float r, float s, float y, float z",
        weights=CONV,
    )
    bundle = sige.export(saved(model, tmp_path), {"x": X}, tmp_path / "bundle", ["x"])
    assert bundle.manifest.launches == {"Identity": 2, "sige.Conv": 2, "Relu": 1}
    edit = onnx.load(bundle.path("edit.onnx"), load_external_data=False).graph
    names = [o.name for o in edit.output]
    assert names == ["rows.r", "rows.s", "rows.y", "rows.z", "fresh.x"]
    assert {c.rows for c in bundle.manifest.caches} == {"rows.r", "fresh.x"}
    assert {n.output[0] for n in edit.node if n.op_type == "Identity"} == {"rows.s", "fresh.x"}


def test_name_and_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bundle = sige.export(
        saved(conv(), tmp_path), {"x": X}, tmp_path / "bundle", ["x"], name="mine",
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert bundle.manifest.name == "mine"
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2]


def test_graphs_are_valid_and_share_weights(tmp_path: Path) -> None:
    sige.export(saved(conv(), tmp_path), {"x": X}, tmp_path / "bundle", ["x"])
    for file in (tmp_path / "bundle").glob("*.onnx"):
        onnx.checker.check_model(file, full_check=True)
        model = onnx.load(file, load_external_data=False)
        assert all(not t.raw_data or len(t.raw_data) <= 1024 for t in model.graph.initializer)
        assert [i.domain for i in model.opset_import if i.domain not in ("", "sige")] == []


def test_the_same_export_gives_the_same_files(tmp_path: Path) -> None:
    path = saved(conv(), tmp_path)
    first, second = (sige.export(path, {"x": X}, tmp_path / name, ["x"]) for name in ("a", "b"))
    assert {n: f.sha256 for n, f in first.manifest.files.items()} == {
        n: f.sha256 for n, f in second.manifest.files.items()
    }


def test_an_existing_bundle_is_replaced(tmp_path: Path) -> None:
    path = saved(conv(), tmp_path)
    sige.export(path, {"x": X}, tmp_path / "bundle", ["x"], name="old")
    sige.export(path, {"x": X}, tmp_path / "bundle", ["x"], name="new")
    assert sige.open_bundle(tmp_path / "bundle").manifest.name == "new"


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Large .onnx models keep their weights beside them."""
    model = network("y = Conv<pads=[1,1,1,1]>(x, w)", weights={"w": weight(32, 4, 3, 3)})
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    sige.export(tmp_path / "net.onnx", {"x": X}, tmp_path / "bundle", ["x"])
    (tmp_path / "net.bin").unlink()
    with sige.open(tmp_path / "bundle", threads=1) as session:
        assert session.record(x=X)["y"].shape == (1, 32, 12, 10)


def test_weights_are_stored_once(tmp_path: Path) -> None:
    from safetensors import safe_open

    body = "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w) y = Add(a, b)"
    model = network(body, weights={"w": weight(32, 4, 3, 3)})
    sige.export(saved(model, tmp_path), {"x": X}, tmp_path / "bundle", ["x"])
    with safe_open(tmp_path / "bundle" / "weights.safetensors", "numpy") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
    assert sum(sizes.values()) == 32 * 4 * 9 * 4


def test_equal_initializers_under_two_names(tmp_path: Path) -> None:
    body = "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[1,1,1,1]>(a, v) y = Add(a, b)"
    model = network(body, weights={"w": weight(4, 4, 3, 3), "v": weight(4, 4, 3, 3)})
    laws = Laws(model)
    laws.nothing_changes()
    laws.everything_is_dense()


# ---- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "spatial", "message"),
    [
        ({}, ["x"], "misses x"),
        ({"x": X, "z": X}, ["x"], "has z, which the network does not use"),
        ({"x": X}, [], "No spatial input"),
        ({"x": X}, ["z"], "'z' is not an input of the network"),
        ({"x": X.astype(np.float64)}, ["x"], "is float64; the network takes float32"),
        ({"x": [1.0]}, ["x"], "is a list"),
        ({"x": X[0, 0]}, ["x"], "expected"),
        ({"x": np.zeros((1, 4, 6, 5), np.float32)}, ["x"], r"has shape \[1, 4, 6, 5\]"),
    ],
    ids=["missing", "extra", "no spatial", "unknown spatial", "dtype", "no array", "rank", "another shape"],
)
def test_inputs_that_do_not_fit(
    tmp_path: Path, inputs: dict[str, object], spatial: list[str], message: str
) -> None:
    with pytest.raises(sige.ExportError, match=message):
        sige.export(saved(conv(), tmp_path), inputs, tmp_path / "bundle", spatial)
    assert not (tmp_path / "bundle").exists()


def test_spatial_input_that_reaches_nothing(tmp_path: Path) -> None:
    model = network("y = Relu(x)", "float[1,4,12,10] x, float[1,4,12,10] z")
    with pytest.raises(sige.ExportError, match="'z' does not reach any output"):
        sige.export(saved(model, tmp_path), {"x": X, "z": X}, tmp_path / "bundle", ["x", "z"])


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(sige.ExportError, match="no model file"):
        sige.export(tmp_path / "none.onnx", {"x": X}, tmp_path / "bundle", ["x"])
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(sige.ExportError, match="not a readable ONNX model"):
        sige.export(tmp_path / "bad.onnx", {"x": X}, tmp_path / "bundle", ["x"])


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("mine")
    with pytest.raises(sige.SigeError):
        sige.export(saved(conv(), tmp_path), {"x": X}, tmp_path / "bundle", ["x"])
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "mine"


def test_a_failed_export_leaves_the_old_bundle(tmp_path: Path) -> None:
    path = saved(conv(), tmp_path)
    sige.export(path, {"x": X}, tmp_path / "bundle", ["x"], name="old")
    control = """y = If(b) <then_branch = g1 () => (float[1,4,12,10] t) { t = Relu(x) },
                           else_branch = g2 () => (float[1,4,12,10] e) { e = Neg(x) }>"""
    bad = saved(network(control, "float[1,4,12,10] x, bool b"), tmp_path)
    with pytest.raises(sige.ExportError):
        sige.export(bad, {"x": X, "b": np.bool_(True)[None][0:1].reshape(())}, tmp_path / "bundle", ["x"])
    assert sige.open_bundle(tmp_path / "bundle").manifest.name == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "net.onnx"]


def test_shapes_that_depend_on_values(tmp_path: Path) -> None:
    model = network("i = NonZero(x) y = Cast<to=1>(i)", weights={"axes": ints(0)})
    with pytest.raises(sige.ExportError, match="shape of output 'y'"):
        sige.export(saved(model, tmp_path), {"x": X}, tmp_path / "bundle", ["x"])


# ---- which convs may start early ---------------------------------------------------------------------------


def early(model: onnx.ModelProto, folder: Path) -> list[int]:
    """The attribute `early` of the edit graph's convs, in order."""
    bundle = sige.export(saved(model, folder), {"x": X}, folder / "bundle", ["x"])
    edit = onnx.load(bundle.path("edit.onnx"), load_external_data=False)
    convs = [node for node in edit.graph.node if node.op_type == "Conv" and node.domain == "sige"]
    return [next((a.i for a in node.attribute if a.name == "early"), 0) for node in convs]


def test_a_conv_of_the_input_whose_base_is_kept_may_start_early(tmp_path: Path) -> None:
    text = "h = Conv<pads=[1,1,1,1]>(x, w)\nr = Relu(h)\ny = Conv<pads=[1,1,1,1]>(r, v)"
    weights = {"w": weight(8, 4, 3, 3), "v": weight(3, 8, 3, 3)}
    assert early(network(text, weights=weights), tmp_path) == [1, 0]


def test_a_result_that_lies_in_the_engines_memory_comes_in_its_turn(tmp_path: Path) -> None:
    text = "h = Conv<pads=[1,1,1,1]>(x, w)\ny = Conv(h, v)"  # a linear layer reads no base of h
    weights = {"w": weight(8, 4, 3, 3), "v": weight(3, 8, 1, 1)}
    assert early(network(text, weights=weights), tmp_path) == [0, 0]
