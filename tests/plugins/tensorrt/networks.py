"""Graphs of a single op, as the exporter writes its nodes: for every op, with few and with all inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.ops import DOMAIN, OPSET, SIGNATURES, VERSION, function_for

Attributes = dict[str, str | int | float]
PIXELS, C, OUT = 96, 16, 32
SIZES: dict[str, tuple[int | str, ...]] = {
    "rows": (2, "P", C),
    "base": (2, PIXELS, C),
    "halo": ("Q",),
    "table": ("R", 9),
    "scale": (1, 1, C),
    "shift": (2, 1, C),
    "bias": (OUT,),
    "embedding": (2, 1, OUT),
    "residual": (2, "R", OUT),
    "multiplier": (2, "R", OUT),
    "active": ("P",),
    "q": (2, "P", 4 * 40),
    "k": (2, "P", 4 * 40),
    "v": (2, "P", 4 * 24),
    "k_base": (2, PIXELS, 4 * 40),
    "v_base": (2, PIXELS, 4 * 24),
}
INDICES = {"halo", "table", "active"}

#: name: op, inputs, sizes that differ, attributes, shape of the output (-1: rows)
CASES: dict[str, tuple[str, str, dict[str, tuple[int | str, ...]], Attributes, list[int]]] = {
    "gather_rows": ("Gather", "rows scale", {}, {"activation": "relu"}, [2, -1, C]),
    "gather_phases": ("Gather", "rows base halo table", {}, {"phases": 4, "pad_value": -1.0}, [2, -1, 36]),
    "gather_two": (
        "Gather",
        "rows base halo table scale shift rows_2 base_2",
        {"rows_2": (2, "P", 8), "base_2": (2, PIXELS, 8), "scale": (1, 1, C + 8), "shift": (2, 1, C + 8)},
        {"activation": "leaky_relu", "alpha": 0.2},
        [2, -1, 9 * (C + 8)],
    ),
    "conv_linear": ("Conv", "rows weight bias", {"weight": (1, C, OUT)}, {}, [2, -1, OUT]),
    "conv_all": (
        "Conv",
        "rows base halo table weight bias scale shift embedding residual multiplier",
        {"weight": (9, C, OUT)},
        {"activation_in": "silu", "activation_out": "tanh"},
        [2, -1, OUT],
    ),
    "conv_depthwise": (
        "Conv",
        "rows base halo table weight",
        {"weight": (9, 1, C)},
        {"group": C, "activation_out": "gelu"},
        [2, -1, C],
    ),
    "conv_two": (
        "Conv",
        "rows base halo table weight rows_2 base_2",
        {"weight": (9, C + 8, OUT), "rows_2": (2, "P", 8), "base_2": (2, PIXELS, 8)},
        {},
        [2, -1, OUT],
    ),
    "conv_gated": (
        "Conv",
        "rows weight bias multiplier residual",
        {"weight": (1, C, 2 * OUT), "bias": (2 * OUT,)}
        | dict.fromkeys(("multiplier", "residual"), (2, "P", OUT)),
        {"norm_epsilon": 1e-5, "gate": "gelu"},
        [2, -1, OUT],
    ),
    "scatter": ("Scatter", "base rows active", {}, {}, [2, PIXELS, C]),
    "attention": ("Attention", "q k v k_base v_base active", {}, {"heads": 4}, [2, -1, 4 * 24]),
    "attention_wide": (
        "Attention",
        "q k v k_base v_base active",
        {
            "q": (2, "P", 4 * 40 + 16),
            "k": (2, "P", 4 * 40 + 24),
            "v": (2, "P", 3 * 4 * 24),
            "k_base": (2, PIXELS, 4 * 40 + 8),
            "v_base": (2, PIXELS, 2 * 4 * 24),
        },
        {
            "heads": 4,
            "dk": 40,
            "dv": 24,
            "q_offset": 16,
            "k_offset": 8,
            "v_offset": 2 * 4 * 24,
            "k_base_offset": 8,
            "v_base_offset": 4 * 24,
        },
        [2, -1, 4 * 24],
    ),
    "attention_cross": ("Attention", "q k_base v_base", {}, {"heads": 4, "scale": 0.2}, [2, -1, 4 * 24]),
}


def network(case: str, dtype: ir.DataType) -> ir.Model:
    """A graph of one node; the weight is a constant of it."""
    op, names, sizes, attributes, _ = CASES[case]
    values: dict[str, ir.Value] = {}
    for name in names.split():
        shape = ir.Shape({**SIZES, **sizes}[name])
        kind = ir.TensorType(ir.DataType.INT32 if name in INDICES else dtype)
        values[name] = ir.Value(name=name, type=kind, shape=shape)
        if name == "weight":
            weight = np.random.default_rng(0).standard_normal(shape.numpy())
            values[name].const_value = ir.tensor(weight.astype(dtype.numpy()), name=name)
    given = [values.get(name) for name in SIGNATURES[op].inputs]
    while given[-1] is None:
        given.pop()
    node = ir.node(op, given, dict(attributes), domain=DOMAIN, name=case)
    node.outputs[0].name, node.outputs[0].type = "out", ir.TensorType(dtype)
    graph = ir.Graph(
        [value for name, value in values.items() if name != "weight"],
        node.outputs,
        nodes=[node],
        initializers=[values["weight"]] if "weight" in values else [],
        opset_imports={"": OPSET, DOMAIN: VERSION},
        name=case,
    )
    model = ir.Model(graph, ir_version=11)
    function = function_for(node)
    node.overload = function.overload
    model.functions[function.identifier()] = function
    return model
