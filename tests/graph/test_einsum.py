from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sige_deploy.graph.normalise import expand_composites, prepare

from .helpers import check, ints, network, weight

IMAGES = "float[2,4,6,5] x"
TOKENS = "t = Reshape(x, flat)"
FLAT = {"flat": ints(0, 4, 30)}


@pytest.mark.parametrize(
    "equation",
    ["nchw,cd->ndhw", "nchw,dc->ndhw", "nchw,cd->nhwd", "n c h w, c d -> n d h w"],
)
def test_linear_layers(equation: str) -> None:
    size = (5, 4) if "dc" in equation else (4, 5)
    check(network(f'y = Einsum<equation="{equation}">(x, w)', IMAGES, weights={"w": weight(*size)}))


def test_weight_first() -> None:
    check(network('y = Einsum<equation="dc,nchw->ndhw">(w, x)', IMAGES, weights={"w": weight(5, 4)}))


def test_attention() -> None:
    body = TOKENS + """
        s = Einsum<equation="bct,bcs->bts">(t, t) p = Softmax<axis=-1>(s) y =
        Einsum<equation="bts,bcs->bct">(p, t)
    """  # fmt: skip
    check(network(body, IMAGES, weights=FLAT))


def test_attention_with_heads() -> None:
    body = """
        t = Reshape(x, heads)
        s = Einsum<equation="bhct,bhcs->bhts">(t, t) p = Softmax<axis=-1>(s) y =
        Einsum<equation="bhts,bhcs->bhct">(p, t)
    """
    check(network(body, IMAGES, weights={"heads": ints(0, 2, 2, 30)}))


EQUATIONS = [
    "ab,bc->ac",
    "ab,cb->ca",
    "abc,acd->abd",
    "abc,bcd->ad",
    "bhqd,bhkd->bhqk",
    "bhqk,bhkd->bqhd",
    "ab,b->a",
    "a,ab->b",
]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_expansion_is_the_same_function(equation: str) -> None:
    size = {k: n for n, k in enumerate(sorted(set(equation) - set(",->")), 2)}
    left, right = equation.split("->")[0].split(",")
    x, w = (weight(*(size[k] for k in labels), seed=i) for i, labels in enumerate((left, right)))
    declared = f"float[{','.join(map(str, x.shape))}] x"
    model = prepare(
        ir.from_proto(network(f'y = Einsum<equation="{equation}">(x, w)', declared, weights={"w": w})), {}
    )
    expand_composites(model)
    assert "Einsum" not in [node.op_type for node in model.graph]
    import onnxruntime

    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"x": x})[0], np.einsum(equation, x, w), atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        'Einsum<equation="...c,cd->...d">(n, w)',
        'Einsum<equation="nhwc->n">(n)',
        'Einsum<equation="nhwc,cd->nd">(n, w)',
    ],
)
def test_other_equations_stay(call: str) -> None:
    body = f"n = Transpose<perm=[0,2,3,1]>(x) y = {call}"
    check(network(body, IMAGES, weights={"w": weight(4, 4)}), islands=["Einsum"], mixed=False, commit=False)
