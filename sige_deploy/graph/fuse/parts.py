"""Attention reads queries, keys and values out of wider rows, where channels were split only for that.

One product makes the queries, keys and values of a layer, or the keys and values of a text for all layers;
the ops that read them are told where they lie. What a commit writes into the bases of keys and values is then
a part of those rows too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from sige_deploy.graph.builder import attribute
from sige_deploy.graph.fuse.state import Fusion, consumers, named_inputs
from sige_deploy.ops import DOMAIN


@dataclass(frozen=True)
class Part:
    """Channels of a value [B, N, C]: ``width`` of them from ``offset`` on."""

    whole: ir.Value
    offset: int
    width: int


def fuse_parts(fusion: Fusion) -> None:
    """Every Split of channels whose results Attention alone reads."""
    for node in list(fusion.ctx.edit.nodes):
        parts = _of_split(node)
        if parts and attention_alone_reads(list(parts)):
            read_parts(fusion, parts)


def attention_alone_reads(values: Sequence[ir.Value]) -> bool:
    """Whether all that reads any of these values [B, N, C] is Attention, be it through reshapes that are
    undone."""
    readers = [reader for value in values for reader in _readers(value)]
    return bool(readers) and all(
        (node.domain, node.op_type) == (DOMAIN, "Attention") and read.shape == value.shape
        for node, read, value in readers
    )


def read_parts(fusion: Fusion, parts: Mapping[ir.Value, Part]) -> None:
    """Let the Attentions that read these values read them where they are parts of, and commits too."""
    aliases = {read: part for value, part in parts.items() for _, read, _ in _readers(value)}
    nodes = dict.fromkeys(node for value in parts for node, _, _ in _readers(value))
    for value, part in parts.items():
        fusion.ctx.take_rows_from(value, part.whole, part.offset)
    for node in nodes:
        inputs, attributes = named_inputs(node), dict[str, Any](node.attributes)
        heads = attribute(node, "heads")
        given = {n: v for n, v in inputs.items() if v is not None and n != "active"}
        for name, side in (("dk", "q"), ("dv", "v_base")):
            attributes.setdefault(name, _width(given[side], aliases) // heads)
        for name, value in given.items():
            if value in aliases:
                inputs[name] = aliases[value].whole
                if aliases[value].offset:
                    attributes[f"{name}_offset"] = aliases[value].offset
        fusion.replace(node.outputs[0], "Attention", inputs, attributes)


def _of_split(node: ir.Node) -> dict[ir.Value, Part]:
    """Where the outputs of a Split of channels lie in its input; nothing for other nodes."""
    whole = node.inputs[0] if node.inputs else None
    if node.domain != "" or node.op_type != "Split" or whole is None or len(whole.shape or ()) != 3:
        return {}
    if attribute(node, "axis", 0) not in (2, -1):
        return {}
    parts, offset = {}, 0
    for output in node.outputs:
        parts[output] = Part(whole, offset, _width(output, {}))
        offset += parts[output].width
    return parts


def _readers(value: ir.Value) -> list[tuple[ir.Node, ir.Value, ir.Value]]:
    """The nodes that read a value, also through reshapes: each with what it reads, and the value."""
    found, stack = [], [value]
    while stack:
        read = stack.pop()
        for node in consumers(read):
            if (node.domain, node.op_type) == ("", "Reshape") and node.inputs[0] is read:
                stack.append(node.outputs[0])
            else:
                found.append((node, read, value))
    return found


def _width(value: ir.Value, parts: Mapping[ir.Value, Part]) -> int:
    if value in parts:
        return parts[value].width
    assert value.shape is not None and isinstance(value.shape[2], int)
    return value.shape[2]
