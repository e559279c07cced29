"""Moving the channels of a Conv's result is choosing columns of its weight.

What splits, slices, permutes or regroups channels behind a Conv (the gate of a gated layer, the phases of a
pixel shuffle) becomes one Conv per result, where that takes no more launches. The weight is stored in these
pieces; the dense graphs put it together again. Queries, keys and values made by one layer stay in one Conv:
Attention reads its parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.fuse.parts import Part, attention_alone_reads, read_parts
from sige_deploy.graph.fuse.state import Fusion, consumers, named_inputs

Leaf = tuple[ir.Value, np.ndarray]  # rows, and the Conv's output channel of each of their channels


def fuse_columns(fusion: Fusion) -> None:
    for node in fusion.nodes("Conv"):
        inputs = named_inputs(node)
        weight, bias = inputs.get("weight"), inputs.get("bias")
        plain = all(inputs.get(name) is None for name in ("embedding", "residual", "multiplier"))
        constant = is_constant(weight) and (bias is None or is_constant(bias))
        if weight is None or not plain or not constant or attribute(node, "group", 1) != 1:
            continue
        if len(consumers(weight)) > 1 or weight.name not in fusion.ctx.store.tensors:
            continue
        channels = (static_shape(weight) or ())[2]
        moves: list[ir.Node] = []
        leaves = _leaves(node.outputs[0], np.arange(channels), moves)
        if leaves is None or not moves or not _is_whole(leaves, channels):
            continue
        if attention_alone_reads([value for value, _ in leaves]):
            _read_by_attention(fusion, node, leaves)
        elif _is_cheaper(leaves, moves):
            _split(fusion, inputs, dict(node.attributes), leaves)


def _leaves(value: ir.Value, index: np.ndarray, moves: list[ir.Node]) -> list[Leaf] | None:
    """The rows that follow from ``value`` by moving channels alone; None where something else is read.

    index: which of the Conv's channels lies where, in the shape of the value's axes behind [B, P].
    """
    readers, found, mine = consumers(value), [], []
    for reader in readers:
        moved = _moved(reader, value, index)
        if moved is None:
            break
        mine.append(reader)
        for output, part in zip(reader.outputs, moved, strict=True):
            leaves = _leaves(output, part, mine)
            if leaves is None:
                break
            found += leaves
        else:
            continue
        break
    else:
        if readers:
            moves += mine
            return found
    return [(value, index)] if index.ndim == 1 else None


def _moved(node: ir.Node, value: ir.Value, index: np.ndarray) -> list[np.ndarray] | None:
    """The index of every output of a node that moves channels."""
    if node.domain != "" or node.inputs[0] is not value or not all(map(is_constant, node.inputs[1:])):
        return None
    operands = [v.const_value.numpy() for v in node.inputs[1:]]  # type: ignore[union-attr]
    rank = index.ndim + 2
    if node.op_type == "Reshape":
        shape = operands[0].tolist()
        if shape[:2] != [0, 0] or 0 in shape[2:] or attribute(node, "allowzero", 0):
            return None
        return [index.reshape(shape[2:])]
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", [])
        return [index.transpose([p - 2 for p in perm[2:]])] if perm[:2] == [0, 1] else None
    if node.op_type == "Slice":
        starts, ends, axes, steps = (operand.tolist() for operand in operands)
        if any(axis % rank < 2 for axis in axes):
            return None
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = index.shape[axis % rank - 2]
            index = index.take(range(size)[slice(start, None if end < -size else end, step)], axis % rank - 2)
        return [index]
    axis = attribute(node, "axis", 0) % rank
    if node.op_type == "Split" and axis >= 2:
        return np.split(index, np.cumsum(operands[0])[:-1], axis - 2)
    if node.op_type == "Gather" and axis >= 2 and operands[0].ndim == 1:
        return [index.take(operands[0], axis - 2)]
    return None


def _is_whole(leaves: list[Leaf], channels: int) -> bool:
    """Whether the results are all of the Conv's channels, each once."""
    whole = np.sort(np.concatenate([index for _, index in leaves]))
    return np.array_equal(whole, np.arange(channels))


def _is_cheaper(leaves: list[Leaf], moves: list[ir.Node]) -> bool:
    """Whether a Conv for each result takes no more launches than the Conv and what it takes to move."""
    launched = sum(node.op_type != "Reshape" for node in moves)
    return launched > 0 and len(leaves) <= 1 + launched


def _read_by_attention(fusion: Fusion, node: ir.Node, leaves: list[Leaf]) -> None:
    """Put the results' channels side by side in the Conv's and let Attention read them there."""
    whole = node.outputs[0]
    order = np.concatenate([index for _, index in leaves])
    if not np.array_equal(order, np.arange(len(order))):
        whole = _columns(fusion, named_inputs(node), dict(node.attributes), [(whole, order)])[0]
    ends = np.cumsum([len(index) for _, index in leaves])
    read_parts(
        fusion, {v: Part(whole, int(end) - len(i), len(i)) for (v, i), end in zip(leaves, ends, strict=True)}
    )


def _split(
    fusion: Fusion, inputs: dict[str, ir.Value | None], attributes: dict[str, Any], leaves: list[Leaf]
) -> None:
    made = _columns(fusion, inputs, attributes, leaves)
    for (value, _), new in zip(leaves, made, strict=True):
        fusion.put(value, new)


def _columns(
    fusion: Fusion, inputs: dict[str, ir.Value | None], attributes: dict[str, Any], leaves: list[Leaf]
) -> list[ir.Value]:
    """Convs of these columns of the weight, which is stored so."""
    ctx = fusion.ctx
    weight, bias = inputs["weight"], inputs.get("bias")
    assert weight is not None and weight.name is not None
    pieces = ctx.store.split(weight.name, [index for _, index in leaves])
    made = []
    for (value, index), (name, tensor) in zip(leaves, pieces, strict=True):
        piece = dict(inputs) | {"weight": ctx.edit.initializer(name, tensor)}
        if bias is not None:
            assert bias.const_value is not None
            piece["bias"] = ctx.edit.constant(bias.const_value.numpy()[index], "folded")
        new = ctx.edit.sparse_op("Conv", piece, attributes)
        new.shape, new.type = value.shape, value.type
        made.append(new)
    return made
