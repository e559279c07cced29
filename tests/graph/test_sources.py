"""Convolutions behind a concatenation of channels read both of its operands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import sige_deploy as sige
from sige_deploy.bundle import Bundle

from .helpers import check, network, weight

CONV = "Conv<pads=[1,1,1,1]>"
SKIP = f"a = {CONV}(x, w) b = {CONV}(a, v) c = Concat<axis=1>(b, a)"
WEIGHTS = {
    "w": weight(6, 4, 3, 3),
    "v": weight(5, 6, 3, 3, seed=8),
    "u": weight(4, 11, 3, 3, seed=9),
    "k": weight(4, 11, 1, 1, seed=10),
    "d": weight(11, 1, 3, 3, seed=11),
    "g": weight(22, 1, 3, 3, seed=12),
    "s": weight(1, 11, 1, 1, seed=2),
    "t": weight(1, 11, 1, 1, seed=3),
}


def skip(body: str, outputs: str = "float y") -> onnx.ModelProto:
    """A network that puts 6 channels behind 5 and goes on with all 11, called c."""
    names = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    weights = {name: array for name, array in WEIGHTS.items() if name in (*names, "w", "v")}
    return network(f"{SKIP} {body}", "float[2,4,12,10] x", outputs, weights)


def export(model: onnx.ModelProto, folder: Path) -> tuple[Bundle, list[onnx.NodeProto]]:
    """The bundle, and the nodes of its edit graph without the copies of inputs that commit writes."""
    onnx.save(model, folder / "net.onnx")
    example = {"x": np.zeros((2, 4, 12, 10), np.float32)}
    bundle = sige.export(folder / "net.onnx", example, folder / "bundle", ["x"])
    nodes = onnx.load(bundle.path("edit.onnx"), load_external_data=False).graph.node
    return bundle, [n for n in nodes if n.op_type != "Identity"]


def channels(bundle: Bundle) -> list[int]:
    """Channels of the recorded bases."""
    return sorted(cache.shape[-1] for cache in bundle.manifest.caches if cache.kind == "base")


TWO = {
    "conv": (f"y = {CONV}(c, u)", ["two"]),
    "norm in front": (
        f"m = Mul(c, s) n = Add(m, t) i = Sigmoid(n) h = Mul(n, i) y = {CONV}(h, u)", ["two.affine_silu"]
    ),
    "shortcut beside it": (
        f"r = Relu(c) e = {CONV}(r, u) o = Conv(c, k) y = Add(e, o)", ["rows.two", "two.relu.residual"]
    ),
    "depthwise": ("y = Conv<pads=[1,1,1,1],group=11>(c, d)", ["two.depthwise"]),
    "grouped": ("y = Conv<pads=[1,1,1,1],group=11>(c, g)", ["two.group"]),
    "strided": ("y = Conv<pads=[1,1,1,1],strides=[2,2]>(c, u)", ["two"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TWO)
def test_readers_of_a_concatenation_read_both(case: str, tmp_path: Path) -> None:
    body, overloads = TWO[case]
    bundle, nodes = export(skip(body), tmp_path)
    assert {n.op_type for n in nodes} == {"Conv"}
    assert sorted(n.overload for n in nodes) == ["", "", *overloads]
    assert channels(bundle) == [4, 5, 6]  # that of the skip is the one that the second conv reads
    check(skip(body), mixed=False)


def test_a_skip_recorded_before_its_norm_is_shared(tmp_path: Path) -> None:
    """As in a diffusion model: the encoder's next conv reads the same value through a norm."""
    body = (
        "a = Conv<pads=[1,1,1,1]>(x, w) m = Mul(a, s) g = Sigmoid(m) h = Mul(m, g) "
        f"b = {CONV}(h, v) c = Concat<axis=1>(b, a) r = Relu(c) y = {CONV}(r, u)"
    )
    weights = {name: WEIGHTS[name] for name in "wvu"} | {"s": weight(1, 6, 1, 1)}
    model = network(body, "float[2,4,12,10] x", weights=weights)
    bundle, nodes = export(model, tmp_path)
    assert sorted(n.overload for n in nodes) == ["", "scale_silu", "two.relu"]
    assert channels(bundle) == [4, 5, 6]
    check(model, mixed=False)


def test_pixels_of_both_are_copied_by_one_gather(tmp_path: Path) -> None:
    model = skip("y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c)")
    bundle, nodes = export(model, tmp_path)
    assert [n.overload for n in nodes if n.op_type == "Gather"] == ["two"]
    assert not [n for n in nodes if n.op_type == "Concat"]
    assert channels(bundle) == [4, 5, 6]
    check(model, mixed=False)


def test_a_value_beside_itself(tmp_path: Path) -> None:
    body = f"a = {CONV}(x, w) c = Concat<axis=1>(a, a) y = {CONV}(c, u)"
    weights = {"w": WEIGHTS["w"], "u": weight(4, 12, 3, 3)}
    model = network(body, "float[2,4,12,10] x", weights=weights)
    bundle, nodes = export(model, tmp_path)
    assert [n.overload for n in nodes] == ["", "two"]
    assert channels(bundle) == [4, 6]
    check(model, mixed=False)


ONE = {
    "is an output too": (f"y = {CONV}(c, u)", "float y, float c"),
    "is added to": (f"e = {CONV}(c, d2) y = Add(e, c)", "float y"),
    "has three operands": (f"e = Concat<axis=1>(b, a, x) y = {CONV}(e, u3)", "float y"),
}


@pytest.mark.parametrize("case", ONE)
def test_a_concatenation_that_others_read_stays(case: str, tmp_path: Path) -> None:
    body, outputs = ONE[case]
    model = skip(body, outputs)
    extra = {"d2": weight(11, 11, 3, 3), "u3": weight(4, 15, 3, 3)}
    for name in extra:
        if name in body:
            model.graph.initializer.append(onnx.numpy_helper.from_array(extra[name], name))
    _, nodes = export(model, tmp_path)
    assert [n.op_type for n in nodes].count("Concat") == 1
    assert not [n for n in nodes if "two" in n.overload]
    check(model, mixed=False)


def test_a_value_without_a_base_stays_beside_rows(tmp_path: Path) -> None:
    """A constant map beside the rows; a linear layer can read it, a window cannot."""
    weights = {"w": WEIGHTS["w"], "u": weight(4, 8, 3, 3), "p": weight(2, 2, 12, 10), "k": weight(4, 8, 1, 1)}
    body = f"a = {CONV}(x, w) c = Concat<axis=1>(a, p) y = {{}}"
    windowed = network(body.format(f"{CONV}(c, u)"), "float[2,4,12,10] x", weights=weights)
    linear = network(body.format("Conv(c, k)"), "float[2,4,12,10] x", weights=weights)
    for name, model in {"": windowed, "rows.two": linear}.items():
        folder = tmp_path / (name or "windowed")
        folder.mkdir()
        _, nodes = export(model, folder)
        assert [n.overload for n in nodes if n.op_type == "Conv"] == ["", name]
        check(model, mixed=False)
