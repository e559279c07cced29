"""The ops in float64 torch, for comparison on the device; docs/ops.md defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

Inputs = Mapping[str, torch.Tensor]


def _activate(name: str, x: torch.Tensor, alpha: float) -> torch.Tensor:
    return {
        "identity": lambda: x,
        "relu": lambda: functional.relu(x),
        "leaky_relu": lambda: functional.leaky_relu(x, alpha),
        "silu": lambda: functional.silu(x),
        "gelu": lambda: functional.gelu(x),
        "gelu_tanh": lambda: functional.gelu(x, approximate="tanh"),
        "sigmoid": lambda: torch.sigmoid(x),
        "tanh": lambda: torch.tanh(x),
    }[name]()


def _taps(inputs: Inputs, activation: str, alpha: float, phases: int, pad_value: float) -> torch.Tensor:
    """[B, R, K, C / phases]."""
    table = inputs.get("table")
    parts = []
    for rows, base in (("rows", "base"), ("rows_2", "base_2")):
        if rows in inputs:
            halo = [] if table is None else [inputs[base][:, inputs["halo"].long()]]
            parts.append(torch.cat([inputs[rows], *halo], 1))
    x = torch.cat(parts, 2).double()
    if "scale" in inputs:
        x = x * inputs["scale"].double()
    if "shift" in inputs:
        x = x + inputs["shift"].double()
    x = _activate(activation, x, alpha)
    if table is None:
        return x.unsqueeze(2)
    x = x.reshape(x.shape[0], x.shape[1] * phases, x.shape[2] // phases)
    padding = torch.full_like(x[:, :1] if x.shape[1] else x.new_empty(x.shape[0], 1, x.shape[2]), pad_value)
    return torch.cat([x, padding], 1)[:, table.long()]


def gather(
    inputs: Inputs, activation: str = "identity", alpha: float = 0.01, phases: int = 1, pad_value: float = 0.0
) -> torch.Tensor:
    """Gather."""
    return _taps(inputs, activation, alpha, phases, pad_value).flatten(2)


def conv(
    inputs: Inputs,
    group: int = 1,
    activation_in: str = "identity",
    alpha_in: float = 0.01,
    activation_out: str = "identity",
    alpha_out: float = 0.01,
    norm_epsilon: float = 0.0,
    gate: str = "",
) -> torch.Tensor:
    """Conv."""
    taps = _taps(inputs, activation_in, alpha_in, 1, 0.0)
    weight = inputs["weight"].double()
    kernel, depth, outputs = weight.shape
    y = torch.einsum(
        "brkgc,kcgo->brgo",
        taps.unflatten(3, (group, depth)),
        weight.reshape(kernel, depth, group, outputs // group),
    ).flatten(2)
    if norm_epsilon:
        y = y / (taps.var(dim=3, correction=0) + norm_epsilon).sqrt()
    for name in ("bias", "embedding"):
        if name in inputs:
            y = y + inputs[name].double()
    if gate:
        y, opened = y.chunk(2, dim=2)
        y = y * _activate(gate, opened, 0.0)
    if "multiplier" in inputs:
        y = y * inputs["multiplier"].double()
    if "residual" in inputs:
        y = y + inputs["residual"].double()
    return _activate(activation_out, y, alpha_out)


def scatter(inputs: Inputs) -> torch.Tensor:
    """Scatter."""
    result = inputs["base"].double()
    result[:, inputs["active"].long()] = inputs["rows"].double()
    return result


def attention(
    inputs: Inputs, heads: int, scale: float = 0.0, dk: int = 0, dv: int = 0, **offsets: int
) -> torch.Tensor:
    """Attention."""

    def part(name: str) -> torch.Tensor:
        first, width = offsets.get(f"{name}_offset", 0), heads * (dv if name.startswith("v") else dk)
        return inputs[name][..., first : first + width if width else None].double()

    overlaid = {name: part(f"{name}_base") for name in ("k", "v")}
    if inputs["active"] is not None:
        overlaid = {
            name: scatter({"base": base, "rows": part(name), "active": inputs["active"]})
            for name, base in overlaid.items()
        }
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (part("q"), overlaid["k"], overlaid["v"]))
    scores = q @ k.transpose(2, 3) * (scale or 1 / math.sqrt(q.shape[3]))
    return (scores.softmax(3) @ v).transpose(1, 2).flatten(2)


def run(op: str, inputs: Inputs, attributes: Mapping[str, Any]) -> torch.Tensor:
    """Any op."""
    operations: dict[str, Any] = {"gather": gather, "conv": conv, "scatter": scatter, "attention": attention}
    return operations[op](inputs, **attributes)
