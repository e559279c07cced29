"""What the pass knows of a value, and what record leaves for edit.

A value of the network is one of

* ``Static``   it does not depend on the spatial inputs, or is a recorded statistic: a constant or a cache in
  edit;
* ``Spatial``  rows in edit, a base in record;
* ``View``     a spatial value re-indexed (padded, cropped, enlarged) and not yet gathered: neighbourhood ops
  read through it;
* ``Dense``    computed whole in edit (an island, or a non-spatial value that edits change).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sige_deploy.geometry import AxisTaps
from sige_deploy.graph.builder import Builder, static_shape
from sige_deploy.graph.layout import Layout, Refusal


@dataclass(frozen=True)
class Static:
    value: ir.Value


@dataclass(frozen=True)
class Spatial:
    value: ir.Value
    level: str
    layout: Layout
    rows: ir.Value


@dataclass(frozen=True)
class View:
    value: ir.Value
    source: Spatial
    layout: Layout
    y: AxisTaps
    x: AxisTaps
    pad_value: float = 0.0


@dataclass(frozen=True)
class Dense:
    value: ir.Value
    edit: ir.Value


Info = Static | Spatial | View | Dense


@dataclass
class Cache:
    """One array that record leaves for edit. ``rows``: edit's fresh rows of a base, for commit; its channels
    are those from ``offset`` on."""

    name: str
    kind: str
    record: ir.Value
    edit: ir.Value
    shape: tuple[int, ...]
    level: str | None = None
    rows: ir.Value | None = None
    offset: int = 0


@dataclass
class Island:
    node: str
    op: str
    reason: str
    bytes: int


@dataclass(frozen=True)
class Form:
    """A static tensor's way into the rows' shape: reshape, transpose, expand (or None), reshape."""

    split: tuple[int, ...]
    perm: tuple[int, ...]
    expand: tuple[int, ...] | None
    shape: tuple[int, ...]

    def of_array(self, array: np.ndarray) -> np.ndarray:
        array = array.reshape(self.split).transpose(self.perm)
        if self.expand is not None:
            array = np.broadcast_to(array, self.expand)
        return array.reshape(self.shape)

    def of_value(self, builder: Builder, value: ir.Value) -> ir.Value:
        given = static_shape(value)
        if given != self.split:
            value = builder.reshape(value, self.split)
        moved = tuple(self.split[p] for p in self.perm)
        big = [p for p in self.perm if self.split[p] > 1]
        if big != sorted(big):  # else it only moves axes of one element
            value = builder.transpose(value, self.perm)
        elif self.split != moved:
            value = builder.reshape(value, moved)
        if self.expand is not None and self.expand != moved:
            value = builder.op("Expand", [value, builder.ints(*self.expand)])
            moved = self.expand
        result = value if moved == self.shape else builder.reshape(value, self.shape)
        if result.shape is None:
            result.shape = ir.Shape(self.shape)
        return result


def element_bytes(value: ir.Value) -> int:
    """Bytes of a tensor of static shape, 0 where it is unknown."""
    shape = static_shape(value)
    return 0 if shape is None or value.dtype is None else int(math.prod(shape) * value.dtype.itemsize)


def require(condition: object, reason: str) -> None:
    """Refuse with the reason unless the condition holds."""
    if not condition:
        raise Refusal(reason)
