"""Weights in the layout that the sparse GEMMs read, shared by all graphs of a bundle.

``Conv`` keeps ``[O, C/g, kh, kw]`` in ONNX; the rows GEMM wants ``[kh*kw, C/g, O]``, and ``[1, C, O]`` of a
matrix. The bundle stores the second form once; the dense graphs get it back by Reshape, Transpose, Reshape,
which every engine folds when it loads the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Piece:
    """Columns of a stored tensor, from ``start`` on, that are the columns ``index`` of a weight's form."""

    tensor: str
    start: int
    index: np.ndarray


class WeightStore:
    """Relayouts asked for by the pass, by the original initializer's name; one stored form per weight.

    A stored form may lie in pieces of several tensors, and a tensor may hold pieces of several forms.
    """

    def __init__(self) -> None:
        self.relayouts: dict[str, Relayout] = {}
        self.tensors: dict[str, ir.TensorProtocol] = {}
        self.pieces: dict[str, list[Piece]] = {}

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
        """Store a form in tensors of these columns, which together are all; their names and tensors."""
        whole = self.tensors.pop(name).numpy()
        self.pieces[name] = [Piece(f"{name}.{i}", 0, index) for i, index in enumerate(columns)]
        for piece in self.pieces[name]:
            array = np.ascontiguousarray(whole[..., piece.index])
            self.tensors[piece.tensor] = ir.Tensor(array, name=piece.tensor)
        return [(piece.tensor, self.tensors[piece.tensor]) for piece in self.pieces[name]]

    def join(self, names: Sequence[str]) -> tuple[str, ir.TensorProtocol]:
        """Store tensors of the same rows side by side in one; its name and itself. The pieces of one form
        become that form again where they are in order."""
        arrays = [self.tensors.pop(name).numpy() for name in names]
        widths = [array.shape[-1] for array in arrays]
        starts = {name: sum(widths[:i]) for i, name in enumerate(names)}
        for name, width in zip(names, widths, strict=True):
            if any(relayout.name == name for relayout in self.relayouts.values()):
                self.pieces[name] = [Piece(name, 0, np.arange(width))]
        joined = "+".join(names)
        for form, pieces in self.pieces.items():
            moved = [
                replace(p, tensor=joined, start=p.start + starts[p.tensor]) if p.tensor in starts else p
                for p in pieces
            ]
            self.pieces[form] = merged = _merged(moved)
            alone = len(merged) == 1 and merged[0].tensor == joined and len(merged[0].index) == sum(widths)
            if alone and np.array_equal(merged[0].index, np.arange(sum(widths))):
                del self.pieces[form]
                joined = form
                break
        self.tensors[joined] = ir.Tensor(np.concatenate(arrays, axis=-1), name=joined)
        return joined, self.tensors[joined]

    def read(self, builder: Builder, relayout: Relayout) -> ir.Value:
        """The original weight in a dense graph, rebuilt from what is stored."""
        if relayout.name not in self.pieces:
            return relayout.restore(builder, builder.initializer(relayout.name, self.tensors[relayout.name]))
        pieces = self.pieces[relayout.name]
        stored = [self._columns(builder, piece) for piece in pieces]
        value = builder.op("Concat", stored, {"axis": 2}) if len(stored) > 1 else stored[0]
        order = np.argsort(np.concatenate([piece.index for piece in pieces]))
        if not np.array_equal(order, np.arange(len(order))):
            value = builder.op("Gather", [value, builder.ints(*order)], {"axis": 2})
        return relayout.restore(builder, value)

    def _columns(self, builder: Builder, piece: Piece) -> ir.Value:
        tensor = self.tensors[piece.tensor]
        value = builder.initializer(piece.tensor, tensor)
        if len(piece.index) == tensor.shape[-1]:
            return value
        bounds = [builder.ints(n) for n in (piece.start, piece.start + len(piece.index), 2)]
        part: ir.Value = builder.op("Slice", [value, *bounds])
        return part


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces in the order of their tensors, neighbours as one."""
    found: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.tensor, p.start)):
        last = found[-1] if found else None
        if last is not None and (last.tensor, last.start + len(last.index)) == (piece.tensor, piece.start):
            found[-1] = replace(last, index=np.concatenate([last.index, piece.index]))
        else:
            found.append(piece)
    return found
