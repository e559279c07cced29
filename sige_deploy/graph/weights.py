"""Weights in the layout that the sparse GEMMs read, shared by all graphs of a bundle.

``Conv`` keeps ``[O, C/g, kh, kw]`` in ONNX; the rows GEMM wants ``[kh*kw, C/g, O]``, and ``[1, C, O]`` of a
matrix. The bundle stores the second form once; the dense graphs get it back by Reshape, Transpose, Reshape,
which every engine folds when it loads the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import Builder


@dataclass(frozen=True)
class Relayout:
    """``stored = original.reshape(split).transpose(perm).reshape(stored_shape)``."""

    name: str
    original: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    stored: tuple[int, ...]

    def apply(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.reshape(self.split).transpose(self.perm).reshape(self.stored))

    def restore(self, builder: Builder, stored: ir.Value) -> ir.Value:
        """Nodes that rebuild the original from the stored form."""
        middle = [self.split[p] for p in self.perm]
        inverse = [int(i) for i in np.argsort(self.perm)]
        value = builder.transpose(builder.reshape(stored, middle), inverse)
        return value if self.split == self.original else builder.reshape(value, self.original)


def conv_weight(name: str, shape: tuple[int, ...]) -> Relayout:
    """[O, C/g, kh, kw] -> [kh*kw, C/g, O]."""
    out, cin, *kernel = shape
    taps = int(np.prod(kernel))
    return Relayout(f"{name}.taps", shape, (out, cin, taps), (2, 1, 0), (taps, cin, out))


def conv_transpose_weight(name: str, shape: tuple[int, ...], group: int) -> Relayout:
    """[C, O/g, kh, kw] -> [kh*kw, C/g, O], output block g reading input block g."""
    cin, out, *kernel = shape
    taps = int(np.prod(kernel))
    return Relayout(
        f"{name}.taps",
        shape,
        (group, cin // group, out, taps),
        (3, 1, 0, 2),
        (taps, cin // group, group * out),
    )


def linear_weight(name: str, shape: tuple[int, ...], transposed: bool) -> Relayout:
    """[C, O], or [O, C] if transposed, -> [1, C, O]; axes of size 1 may come before."""
    cin, out = shape[-2:][::-1] if transposed else shape[-2:]
    return Relayout(f"{name}.rows", shape, shape[-2:], (1, 0) if transposed else (0, 1), (1, cin, out))


class WeightStore:
    """Relayouts asked for by the pass, by the original initializer's name; one stored form per weight.

    A stored form may lie in pieces: of the tensors of those names the columns that the arrays say.
    """

    def __init__(self) -> None:
        self.relayouts: dict[str, Relayout] = {}
        self.tensors: dict[str, ir.TensorProtocol] = {}
        self.pieces: dict[str, list[tuple[str, np.ndarray]]] = {}

    def stored(self, original: ir.Value, relayout: Relayout) -> tuple[str, ir.TensorProtocol] | None:
        """Name and tensor of the stored form; None when another form of the same weight is stored already."""
        assert original.name is not None and original.const_value is not None
        known = self.relayouts.setdefault(original.name, relayout)
        if known != relayout:
            return None
        if relayout.name not in self.tensors:
            array = relayout.apply(original.const_value.numpy())
            self.tensors[relayout.name] = ir.Tensor(array, name=relayout.name)
        return relayout.name, self.tensors[relayout.name]

    def split(self, name: str, columns: Sequence[np.ndarray]) -> list[tuple[str, ir.TensorProtocol]]:
        """Store a form in pieces, which together are all of its columns; their names and tensors."""
        whole = self.tensors.pop(name).numpy()
        self.pieces[name] = [(f"{name}.{i}", index) for i, index in enumerate(columns)]
        for piece, index in self.pieces[name]:
            self.tensors[piece] = ir.Tensor(np.ascontiguousarray(whole[..., index]), name=piece)
        return [(piece, self.tensors[piece]) for piece, _ in self.pieces[name]]

    def read(self, builder: Builder, relayout: Relayout) -> ir.Value:
        """The original weight in a dense graph, rebuilt from what is stored."""
        if relayout.name not in self.pieces:
            return relayout.restore(builder, builder.initializer(relayout.name, self.tensors[relayout.name]))
        names, columns = zip(*self.pieces[relayout.name])
        stored = [builder.initializer(name, self.tensors[name]) for name in names]
        value = builder.op("Concat", stored, {"axis": 2}) if len(stored) > 1 else stored[0]
        order = np.argsort(np.concatenate(columns))
        if not np.array_equal(order, np.arange(len(order))):
            value = builder.op("Gather", [value, builder.ints(*order)], {"axis": 2})
        return relayout.restore(builder, value)
