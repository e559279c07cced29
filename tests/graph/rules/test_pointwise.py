from __future__ import annotations

import numpy as np
import pytest

from sige_deploy.graph.rules.pointwise import NARY, UNARY

from ..helpers import check, network, weight

PREPARED = {"Acos": "Sigmoid(x)", "Asin": "Sigmoid(x)", "Atanh": "Sigmoid(x)", "Acosh": "Add(one, x)"}
ATTRIBUTES = {
    "Cast": "<to=7>", "LeakyRelu": "<alpha=0.3>", "Elu": "<alpha=0.7>", "Gelu": '<approximate="tanh">',
    "HardSigmoid": "<alpha=0.3,beta=0.4>", "Shrink": "<lambd=0.3,bias=0.1>", "ThresholdedRelu": "<alpha=0.5>",
    "Mod": "<fmod=1>", "BitShift": '<direction="LEFT">', "Selu": "<alpha=1.2,gamma=0.9>",
}  # fmt: skip
INTEGER = {
    "BitwiseNot": "int32",
    "BitShift": "uint8",
    "BitwiseAnd": "int32",
    "BitwiseOr": "int32",
    "BitwiseXor": "int32",
}
LOGICAL = {"And", "Or", "Xor", "Not"}
POSITIVE = {"Log", "Sqrt", "Reciprocal", "Pow", "Div", "Acosh"}


def type_of(op: str) -> str:
    return "bool" if op in LOGICAL else INTEGER.get(op, "float")


@pytest.mark.parametrize("op", sorted(UNARY))
def test_unary(op: str) -> None:
    kind = type_of(op)
    body = f"p = {PREPARED.get(op, 'Identity(x)')} r = {op}{ATTRIBUTES.get(op, '')}(p) y = Identity(r)"
    result = {"Not": "bool", "IsInf": "bool", "IsNaN": "bool", "Cast": "int64"}.get(op, kind)
    model = network(
        body, f"{kind}[2,3,6,5] x", f"{result} y", {"one": np.float32([1])} if op == "Acosh" else {}
    )
    check(model, positive=op in POSITIVE)


@pytest.mark.parametrize("op", sorted(set(NARY) - {"Where", "PRelu", "CastLike"}))
def test_nary(op: str) -> None:
    """Two spatial operands, one of them without channels, and a constant over channels."""
    kind = type_of(op)
    compares = op in {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    attributes = ATTRIBUTES.get(op, "")
    np_kind = {"float": np.float32, "bool": np.bool_}.get(kind) or np.dtype(kind)
    c = (np.arange(3).reshape(3, 1, 1) % 2 + (kind != "bool")).astype(np_kind)
    body = f"y = {op}{attributes}(x, m) z = {op}{attributes}(x, c)"
    outputs = "bool y, bool z" if compares else f"{kind} y, {kind} z"
    model = network(body, f"{kind}[2,3,6,5] x, {kind}[2,1,6,5] m", outputs, {"c": c})
    laws = check(model, spatial=("x", "m"), positive=op in POSITIVE)
    assert [o.level for o in laws.manifest.outputs] == ["6x5", "6x5"]


@pytest.mark.parametrize("op", ["Sum", "Max", "Min", "Mean"])
def test_many_operands(op: str) -> None:
    check(network(f"a = Relu(x) b = Neg(x) y = {op}(a, c, x, b)", weights={"c": weight(4, 1, 1)}))


def test_one_operand() -> None:
    check(network("y = Sum(x)"))


CONSTANTS = {
    "scalar": (),
    "one": (1,),
    "over the width, size 1": (1, 1),
    "channels": (4, 1, 1),
    "channels with batch": (1, 4, 1, 1),
    "batch": (2, 1, 1, 1),
    "batch and channels": (2, 4, 1, 1),
    "grid": (12, 10),
    "grid of one channel": (1, 1, 12, 10),
    "everything but the batch": (4, 12, 10),
    "everything": (2, 4, 12, 10),
}


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("swap", [False, True])
def test_constants_broadcast(name: str, swap: bool) -> None:
    operands = "c, x" if swap else "x, c"
    check(network(f"y = Sub({operands})", "float[2,4,12,10] x", weights={"c": weight(*CONSTANTS[name])}))


@pytest.mark.parametrize("shape", [(12, 1), (1, 10)])
def test_constants_along_one_axis_of_the_grid(shape: tuple[int, int]) -> None:
    check(network("y = Add(x, c)", weights={"c": weight(*shape)}))


def test_constant_widens_the_channels() -> None:
    check(network("y = Mul(x, c)", "float[2,1,12,10] x", weights={"c": weight(5, 1, 1)}))


def test_constant_widens_the_batch() -> None:
    check(network("y = Mul(x, c)", "float[1,3,6,5] x", weights={"c": weight(2, 1, 1, 1)}))


def test_constant_adds_an_axis() -> None:
    check(network("y = Mul(x, c)", "float[2,3,6,5] x", weights={"c": weight(1, 1, 1, 1, 1)}))
    check(network("y = Mul(x, c)", "float[1,3,6,5] x", weights={"c": weight(4, 1, 1, 1, 1)}))


@pytest.mark.parametrize("transposed", [False, True])
def test_operands_of_other_channel_orders_meet(transposed: bool) -> None:
    """[N, h, d, H, W] -> [N, d, h, H, W]: the rows' channels are ordered unlike the other operand's."""
    body = """
        s = Reshape(x, split)
        t = Transpose<perm=[0,2,1,3,4]>(s)
        u = Reshape(x, other)
        y = Add(t, u)
        z = Mul(u, t)
    """
    split, other = np.int64([0, 2, 3, 6, 5]), np.int64([0, 3, 2, 6, 5])
    model = network(body, "float[2,6,6,5] x", "float y, float z", {"split": split, "other": other})
    if transposed:
        model.graph.node[3].input[:] = ["u", "t"]
    check(model)


def test_packed_operands_meet_constants() -> None:
    body = (
        "s = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(x, other) v = "
        "Sum(t, u, c, d, e, f)  y = Relu(v)"
    )
    weights = {
        "split": np.int64([0, 2, 3, 6, 5]), "other": np.int64([0, 3, 2, 6, 5]), "c": weight(3, 1, 1, 1),
        "d": weight(2, 1, 1), "e": weight(2, 3, 2, 1, 1), "f": weight(1, 3, 2, 6, 5),
    }  # fmt: skip
    check(network(body, "float[2,6,6,5] x", weights=weights))


def test_split_channels_meet_a_broadcast_over_heads() -> None:
    """[N, h, d, H, W] with [N, 1, d, H, W] and [N, h, 1, H, W]."""
    body = """
        s = Reshape(x, split)
        a = ReduceSum(s, one)
        b = ReduceMax(s, two)
        y = Sub(s, a)
        z = Div(s, b)
        w = Add(a, b)
    """
    weights = {"split": np.int64([0, 2, 3, 6, 5]), "one": np.int64([1]), "two": np.int64([2])}
    check(network(body, "float[2,6,6,5] x", "float y, float z, float w", weights), positive=True)


def test_tokens() -> None:
    body = "t = Reshape(x, tokens) y = Add(t, c) z = Mul(t, p)"
    body += " n = Transpose<perm=[0,2,1]>(t) w = Add(n, e)"
    weights = {
        "tokens": np.int64([0, 4, 120]), "c": weight(4, 1), "p": weight(1, 4, 120), "e": weight(120, 4),
    }  # fmt: skip
    check(network(body, "float[2,4,12,10] x", "float y, float z, float w", weights))


def test_nhwc() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = Mul(t, c) z = Add(t, p)"
    check(network(body, "float[2,4,6,5] x", "float y, float z", {"c": weight(4), "p": weight(6, 5, 1)}))


def test_transposed_grid() -> None:
    """H and W may change places in the dense layout."""
    body = "t = Transpose<perm=[0,1,3,2]>(x) y = Mul(t, c) z = Add(t, p)"
    check(network(body, "float[2,4,6,5] x", "float y, float z", {"c": weight(4, 1, 1), "p": weight(5, 6)}))


def test_transposed_grid_meets_the_plain_one() -> None:
    body = "t = Transpose<perm=[0,1,3,2]>(x) y = Add(t, x)"
    laws = check(network(body, "float[1,2,5,5] x"), islands=["Add"], mixed=False)
    assert laws.manifest.islands[0].reason == "operands pair unlike axes of the pixel grid"


@pytest.mark.parametrize("bounds", ["lo, hi", "lo", '"", hi', "lo, computed"])
def test_clip(bounds: str) -> None:
    body = f"computed = Mul(hi, hi) y = Clip(x, {bounds})"
    if '""' in bounds:
        body = "y = Clip(x, , hi)"
    check(network(body, weights={"lo": np.float32(-0.5), "hi": np.float32(0.7)}))


def test_clip_by_a_free_input() -> None:
    laws = check(network("y = Clip(x, lo, hi)", "float[1,4,6,5] x, float lo", weights={"hi": np.float32(9)}))
    assert laws.input("lo").role == "pinned"


def test_where() -> None:
    body = "p = Greater(x, zero) y = Where(p, x, c) z = Where(p, zero, x) w = Where(q, x, c)"
    weights = {"zero": np.float32(0), "c": weight(4, 1, 1), "q": weight(12, 10) > 0}
    check(network(body, "float[2,4,12,10] x", "float y, float z, float w", weights))


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
def test_prelu(shape: tuple[int, ...]) -> None:
    check(network("y = PRelu(x, s)", "float[2,4,6,5] x", weights={"s": weight(*shape)}))


def test_cast_like_and_types() -> None:
    body = (
        "i = Cast<to=7>(x) h = Cast<to=10>(x) b = Cast<to=9>(i) f = CastLike(i, x) g = "
        "CastLike(x, h) y = Add(f, x)"
    )
    outputs = "int64 i, float16 h, bool b, float y, float16 g"
    check(network(body, outputs=outputs))


def test_dropout_is_the_identity() -> None:
    check(network("y = Dropout(x)"))
    check(network("y, m = Dropout(x)", outputs="float y, bool m"))


def test_levels_do_not_mix() -> None:
    """A constant row of the grid as an image meets the image."""
    body = "m = MaxPool<kernel_shape=[12,1],strides=[12,1]>(x) y = Add(x, m)"
    laws = check(network(body), islands=["Add"], mixed=False)
    assert laws.manifest.islands[0].reason == "it combines levels 12x10, 1x10"


def test_pinned_input_reaches_every_pixel() -> None:
    body = "s = Mul(c, two) y = Add(x, s)"
    laws = check(network(body, "float[2,4,6,5] x, float[2,4,1,1] c", weights={"two": np.float32(2)}))
    assert laws.input("c").role == "pinned"
    assert laws.input("c").reason
