"""Attention: queries of the active pixels against base keys and values, overlaid with fresh ones or not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import ExportError
from sige_deploy.ops.body import Body, Ref
from sige_deploy.ops.checks import require, require_rows
from sige_deploy.ops.scatter import overlay, scatter, scatter_indices
from sige_deploy.ops.signature import Signature

if TYPE_CHECKING:
    import onnx_ir

ATTENTION = Signature(
    "Attention",
    inputs=("q", "k", "v", "k_base", "v_base", "active"),
    required=("q", "k_base", "v_base"),
    output="attended",
    attributes={
        "heads": int,
        "scale": 0.0,
        "q_offset": 0,
        "k_offset": 0,
        "v_offset": 0,
        "k_base_offset": 0,
        "v_base_offset": 0,
        "dk": 0,
        "dv": 0,
    },
    together=("k", "v", "active"),
)
OFFSETS = tuple(name for name in ATTENTION.attributes if name.endswith("_offset"))


def attention(
    q: np.ndarray,
    k: np.ndarray | None,
    v: np.ndarray | None,
    k_base: np.ndarray,
    v_base: np.ndarray,
    active: np.ndarray | None = None,
    *,
    heads: int,
    scale: float = 0.0,
    q_offset: int = 0,
    k_offset: int = 0,
    v_offset: int = 0,
    k_base_offset: int = 0,
    v_base_offset: int = 0,
    dk: int = 0,
    dv: int = 0,
) -> np.ndarray:
    """softmax(scale * q keys^T) values per head; defined in docs/ops.md.

    q and k [B, P, heads*dk], v [B, P, heads*dv], k_base [B, N, heads*dk], v_base [B, N, heads*dv], float32 or
    float16; active int32 [P]. k, v and active may be left out together: then nothing is overlaid. scale 0
    means 1 / sqrt(dk). With dk and dv given, an input may have more channels: heads*dk (heads*dv) of them are
    read, from its offset on. Returns [B, P, heads*dv] in the dtype of `q`; accumulates in float64. Raises
    InputError for shapes, dtypes, indices or attributes that do not fit.
    """
    require(
        (k is None) == (v is None) == (active is None),
        "k, v and active must be given together or not at all.",
    )
    given = {"q": q, "k": k, "v": v, "k_base": k_base, "v_base": v_base}
    parts = {name: value for name, value in given.items() if value is not None}
    for name, value in parts.items():
        require_rows(name, value)
        require(value.dtype == q.dtype, f"{name} must be {q.dtype} as q is, got {value.dtype}.")
    offsets = dict(zip(given, (q_offset, k_offset, v_offset, k_base_offset, v_base_offset)))
    mistake = parts_mistake(dk, dv, offsets.values())
    require(mistake is None, str(mistake))
    require(heads >= 1, f"heads must be at least 1, got {heads}.")
    for name, value in parts.items():
        first, width = offsets[name], heads * (dv if name.startswith("v") else dk)
        require(
            dk > 0 or value.shape[2] % heads == 0,
            f"heads must divide the {value.shape[2]} channels of {name}, got {heads}.",
        )
        require(
            first + width <= value.shape[2],
            f"{name} must have channels {first} to {first + width}, for {heads} heads, got "
            f"{value.shape[2]} channels.",
        )
        parts[name] = value[:, :, first : first + width] if width else value
    require(
        dk > 0 or k is None or k.shape == q.shape,
        f"k must have the shape of q {list(q.shape)}, got {None if k is None else list(k.shape)}.",
    )
    for name in [name for name in ("k", "v") if name in parts]:
        got = parts[name].shape[:2]
        require(
            got == q.shape[:2],
            f"{name} must have the batch and rows of q, {list(q.shape[:2])}, got {list(got)}.",
        )
    require(
        k_base.shape[0] == v_base.shape[0] == q.shape[0] and (dk > 0 or k_base.shape[2] == q.shape[2]),
        f"k_base and v_base must have q's batch, and k_base its channels, {list(q.shape)}, got "
        f"{list(k_base.shape)} and {list(v_base.shape)}.",
    )
    require(
        v_base.shape[:2] == k_base.shape[:2] and k_base.shape[1] > 0,
        f"k_base and v_base must cover the same pixels, at least one, got {list(k_base.shape)} "
        f"and {list(v_base.shape)}.",
    )

    def split(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64).reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)

    queries = split(parts["q"])
    keys, values = parts["k_base"], parts["v_base"]
    if active is not None:
        keys, values = scatter(keys, parts["k"], active), scatter(values, parts["v"], active)
    scores = queries @ split(keys).swapaxes(2, 3) * (scale or 1 / math.sqrt(queries.shape[3]))
    scores = np.exp(scores - scores.max(axis=3, keepdims=True))
    attended = scores / scores.sum(axis=3, keepdims=True) @ split(values)
    return attended.transpose(0, 2, 1, 3).reshape(*q.shape[:2], parts["v_base"].shape[2]).astype(q.dtype)


def parts_mistake(dk: int, dv: int, offsets: Iterable[int]) -> str | None:
    """What is wrong with the attributes that say which channels of wider inputs are read, or None."""
    if min(dk, dv) < 0 or (dk > 0) != (dv > 0):
        return f"dk and dv must both be positive or both be 0, got {dk} and {dv}."
    least, most = min(offsets), max(offsets)
    if least < 0:
        return f"offsets must be at least 0, got {least}."
    if most > 0 and not dk:
        return f"offsets need dk and dv, got an offset of {most} without them."
    return None


def function_for(node: onnx_ir.Node) -> onnx_ir.Function:
    """The function body for an Attention node: with or without fresh keys, a scale of its own, wider inputs.

    Images and heads share one batch axis: only then does ONNX Runtime fuse the transpose of the keys into the
    product. Its own Attention kernel is about as fast, but runs one thread per head and refuses P = 0.
    Raises ExportError if the node is not a valid Attention.
    """
    body = Body(ATTENTION, node)
    wide = bool(body.attribute("dk") or body.attribute("dv"))
    mistake = parts_mistake(
        body.attribute("dk"), body.attribute("dv"), [body.attribute(name) for name in OFFSETS]
    )
    if mistake is not None:
        raise ExportError(f"Node {node.name!r}: {mistake}")
    heads = body.integer(Ref("heads"))
    k_base, v_base = body.input("k_base"), body.input("v_base")
    batch = body.dim(k_base, 0)
    batches = body.op("Mul", batch, heads)
    if wide:
        dk, dv = body.integer(Ref("dk")), body.integer(Ref("dv"))
    else:
        dk = body.op("Div", body.dim(k_base, 2), heads)
        dv = body.op("Div", body.dim(v_base, 2), heads)

    def part(name: str) -> onnx_ir.Value:
        if not wide:
            return body.input(name)
        first = body.integer(Ref(f"{name}_offset"))
        width = body.op("Mul", heads, dv if name.startswith("v") else dk)
        return body.op("Slice", body.input(name), first, body.op("Add", first, width), body.integers(2))

    def split(x: onnx_ir.Value, count: onnx_ir.Value, width: onnx_ir.Value) -> onnx_ir.Value:
        by_head = body.op("Transpose", body.reshape(x, 0, 0, heads, width), perm=[0, 2, 1, 3])
        return body.reshape(by_head, batches, count, width)

    scaled = body.attribute("scale") != 0
    if scaled:
        scale = body.number(Ref("scale"), k_base)
    else:
        scale = body.op("Reciprocal", body.op("Sqrt", body.op("CastLike", dk, k_base)))
    keys, values = part("k_base"), part("v_base")
    crossing = not body.has("k")
    if not crossing:
        indices = scatter_indices(body, k_base)
        keys = overlay(body, keys, part("k"), indices)
        values = overlay(body, values, part("v"), indices)
    fresh, pixels = body.dim(body.input("q"), 1), body.dim(k_base, 1)
    queries = split(body.op("Mul", part("q"), scale), fresh, dk)
    keys, values = split(keys, pixels, dk), split(values, pixels, dv)

    scores = body.op("MatMul", queries, body.op("Transpose", keys, perm=[0, 2, 1]))
    weights = body.op("Softmax", body.op("Cast", scores, to=1), axis=-1)
    attended = body.op("MatMul", body.op("CastLike", weights, k_base), values)
    attended = body.reshape(attended, batch, heads, fresh, dv)
    attended = body.op("Transpose", attended, perm=[0, 2, 1, 3])
    overload = ".".join(["cross"] * crossing + ["scaled"] * scaled + ["wide"] * wide)
    channels = body.op("Mul", heads, dv) if wide else body.dim(v_base, 2)
    return body.close(body.reshape(attended, 0, 0, channels), overload)
