"""The state of one run of the pass, and the two graphs being written.

The dense graph ("record") keeps all of the network and gains outputs; the sparse graph ("edit") is written
from nothing. ``values.py`` names the kinds of values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from sige_deploy.config import SparseConfig
from sige_deploy.geometry import AxisTaps, Geometry, Level
from sige_deploy.graph.builder import Builder, is_constant, static_shape
from sige_deploy.graph.layout import Atom, Layout, Refusal, rows_atoms
from sige_deploy.graph.moves import undone
from sige_deploy.graph.values import Cache, Dense, Form, Info, Island, Spatial, Static, View, require
from sige_deploy.graph.weights import Relayout, WeightStore


@dataclass
class Context:
    """What the rules share: lookups and bookkeeping, no knowledge of any op.

    batch: B of all rows. free: inputs that may change between edits. record, edit: writers of the two graphs.
    info: what is known of each value. inputs, caches: the edit graph's. macs: dense multiply-adds by level.
    islands: nodes left dense. refusals: cheaper rewrites declined. joins: static values that reach all
    pixels, and the node where they do. node: the node being visited.
    """

    config: SparseConfig
    batch: int
    free: frozenset[str] = frozenset()
    record: Builder = field(default_factory=lambda: Builder("sige/"))
    edit: Builder = field(default_factory=lambda: Builder(""))
    store: WeightStore = field(default_factory=WeightStore)
    info: dict[ir.Value, Info] = field(default_factory=dict)
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    caches: dict[str, Cache] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)
    geometries: dict[str, Geometry] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    islands: list[Island] = field(default_factory=list)
    refusals: list[Island] = field(default_factory=list)
    joins: list[tuple[ir.Value, str]] = field(default_factory=list)
    input_grids: list[tuple[int, int]] = field(default_factory=list)
    node: ir.Node | None = None
    _dense: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _static: dict[tuple[ir.Value, object], ir.Value] = field(default_factory=dict)
    _bases: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _views: dict[tuple[object, ...], Spatial] = field(default_factory=dict)
    _geometry_ids: dict[tuple[str, str, AxisTaps, AxisTaps], str] = field(default_factory=dict)
    _depends: dict[ir.Value, bool] = field(default_factory=dict)

    # ---- inputs of the edit graph --------------------------------------------------------------------------

    def edit_input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        if name not in self.inputs:
            self.inputs[name] = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        return self.inputs[name]

    def active(self, level: str) -> ir.Value:
        """int32 [P]: the level's active pixels."""
        return self.edit_input(f"active.{level}", ir.DataType.INT32, [f"P_{level}"])

    def tables(self, geometry: Geometry) -> tuple[ir.Value, ir.Value]:
        """halo int32 [Q] and table int32 [R, K] of a geometry."""
        halo = self.edit_input(f"halo.{geometry.id}", ir.DataType.INT32, [f"Q_{geometry.id}"])
        table = self.edit_input(
            f"table.{geometry.id}", ir.DataType.INT32, [f"P_{geometry.target}", geometry.taps]
        )
        return halo, table

    def pads(self, table: ir.Value | None) -> bool:
        """Whether some target of this table reads padding."""
        if table is None:
            return False
        assert table.name is not None
        geometry = self.geometries[table.name.removeprefix("table.")]
        return bool(geometry.y.index.min() < 0 or geometry.x.index.min() < 0)

    def tap_weights(self, geometry: Geometry) -> ir.Value:
        """float32 [R, K] of a weighted geometry."""
        return self.edit_input(
            f"weights.{geometry.id}", ir.DataType.FLOAT, [f"P_{geometry.target}", geometry.taps]
        )

    # ---- levels and geometries -----------------------------------------------------------------------------

    def add_input_level(self, height: int, width: int) -> str:
        self.input_grids.append((height, width))
        return self._add_level(height, width, None)

    def _add_level(self, height: int, width: int, geometry: str | None) -> str:
        level = f"{height}x{width}"
        self.levels.setdefault(level, Level(level, height, width, geometry))
        return level

    def _is_scaled_input(self, height: int, width: int) -> bool:
        def ratio(a: int, b: int) -> float:
            return a / b if a % b == 0 or b % a == 0 else 0.0

        return any(ratio(h, height) and ratio(h, height) == ratio(w, width) for h, w in self.input_grids)

    def geometry(self, source: str, y: AxisTaps, x: AxisTaps) -> Geometry:
        """The geometry of these taps; its target level is created when it is new."""
        height, width = y.n_out, x.n_out
        target = f"{height}x{width}"
        geometry = self._add_geometry(source, target, y, x)
        if target not in self.levels:
            deciding = None
            if not self._is_scaled_input(height, width):
                deciding = self._add_geometry(source, target, _inside(y), _inside(x)).id
            self._add_level(height, width, deciding)
        return geometry

    def _add_geometry(self, source: str, target: str, y: AxisTaps, x: AxisTaps) -> Geometry:
        key = (source, target, y, x)
        if key not in self._geometry_ids:
            geometry = Geometry(f"g{len(self.geometries)}", source, target, y, x)
            self.geometries[geometry.id] = geometry
            self._geometry_ids[key] = geometry.id
        return self.geometries[self._geometry_ids[key]]

    def decline(self, reason: str) -> None:
        """Note for the export report that a cheaper rewrite of the node at hand was left alone; the result is
        the same."""
        assert self.node is not None
        self.refusals.append(Island(self.node.name or self.node.op_type, self.node.op_type, reason, 0))

    def count_macs(self, level: str, macs: int) -> None:
        """Multiply-accumulates that the dense network spends on this node."""
        self.macs[level] = self.macs.get(level, 0) + macs

    # ---- spatial values ------------------------------------------------------------------------------------

    def set_spatial(self, value: ir.Value, level: str, layout: Layout, rows: ir.Value) -> None:
        expected = static_shape(value)
        if expected is not None and expected != layout.shape:
            raise AssertionError(f"{value.name}: layout {layout.shape} does not describe {expected}")
        rows.shape = ir.Shape([self.batch, f"P_{level}", layout.channels])
        if rows.dtype is None or rows.dtype != value.dtype:
            rows.type = ir.TensorType(value.dtype) if value.dtype is not None else rows.type
        self.info[value] = Spatial(value, level, layout, rows)

    def spatial(self, value: ir.Value) -> Spatial:
        """The value as rows; gathers a view, refuses what has no rows."""
        info = self.info[value]
        if isinstance(info, Spatial):
            return info
        if isinstance(info, View):
            return self._materialise(info)
        raise Refusal(f"input {value.name} is {type(info).__name__.lower()}")

    def _materialise(self, view: View) -> Spatial:
        source = view.source
        geometry = self.geometry(source.level, view.y, view.x)
        rows = self.gather(source, geometry, pad_value=view.pad_value)
        self.set_spatial(view.value, geometry.target, view.layout, rows)
        result = self.info[view.value]
        assert isinstance(result, Spatial)
        return result

    def gather(self, source: Spatial, geometry: Geometry, **attributes: object) -> ir.Value:
        halo, table = self.tables(geometry)
        base = self.base(source)
        inputs = {"rows": source.rows, "base": base, "halo": halo, "table": table}
        return self.edit.sparse_op("Gather", inputs, attributes)

    def reordered(self, source: Spatial, order: tuple[Atom, ...]) -> Spatial:
        """The same value with its rows' channels in another order of atoms."""
        if source.layout.order == order:
            return source
        rows = self.rows_view(source, order)
        rows = self.edit.reshape(rows, [0, 0, source.layout.channels])
        rows.shape, rows.type = source.rows.shape, source.rows.type
        return replace(source, layout=replace(source.layout, order=order), rows=rows)

    def in_reading_order(self, source: Spatial) -> Spatial:
        return self.reordered(source, source.layout.reading_order())

    def rows_view(self, source: Spatial, order: Sequence[Atom]) -> ir.Value:
        """Rows as [B, P, *sizes of the atoms in this order]."""
        current = source.layout.order
        rows = source.rows
        if len(current) != 1:
            rows = self.edit.reshape(rows, [0, 0, *(a.size for a in current)])
            perm = [0, 1, *(2 + current.index(a) for a in order)]
            rows = self.edit.transpose(rows, perm)
        return rows

    def base(self, source: Spatial) -> ir.Value:
        """The recorded activation [B, H*W, C] in this channel order, as an input of the edit graph."""
        layout, key = source.layout, source.rows
        if key not in self._bases:
            level = self.levels[source.level]
            shape = (self.batch, level.pixels, layout.channels)
            flat = [atom for dim in layout.dims for atom in dim]
            perm = tuple(flat.index(a) for a in rows_atoms(layout))
            form = Form(tuple(a.size for a in flat), perm, None, shape)
            recorded = form.of_value(self.record, source.value)
            cache = self._cache("base", source.value, recorded, source.level, shape)
            cache.rows = source.rows
            self._bases[key] = cache.edit
        return self._bases[key]

    def replace_rows(self, old: ir.Value, new: ir.Value) -> None:
        """Let a base's fresh rows be those of another value of the edit graph, which is the same."""
        if old in self._bases:
            self._bases[new] = self._bases.pop(old)
        for cache in self.caches.values():
            if cache.rows is old:
                cache.rows = new

    def take_rows_from(self, part: ir.Value, whole: ir.Value, offset: int) -> None:
        """Let a base's fresh rows be channels of wider ones, from ``offset`` on."""
        for cache in self.caches.values():
            if cache.rows is part:
                cache.rows, cache.offset = whole, offset

    def linear(self, rows: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
        """rows [B, P, Cin] x weight [1, Cin, Cout] + bias [Cout]."""
        if rows.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            inputs = {"rows": rows, "weight": weight, "bias": bias}
            return self.edit.sparse_op("Conv", inputs)
        assert weight.shape is not None
        matrix = self.edit.reshape(weight, [int(n) for n in weight.shape[1:]])  # type: ignore[arg-type]
        rows = self.edit.op("MatMul", [rows, matrix])
        return rows if bias is None else self.edit.op("Add", [rows, bias])

    def dense(self, value: ir.Value) -> ir.Value:
        """The edited value whole, in its dense layout, in the edit graph."""
        if value in self._dense:
            return self._dense[value]
        info = self.info[value]
        if isinstance(info, Static):
            return self.edit_value(value)
        if isinstance(info, Dense):
            return info.edit
        result = self._scatter(self.spatial(value))
        self._dense[value] = result
        return result

    def _scatter(self, source: Spatial) -> ir.Value:
        inputs = {"base": self.base(source), "rows": source.rows, "active": self.active(source.level)}
        whole = self.edit.sparse_op("Scatter", inputs)
        atoms = rows_atoms(source.layout)
        target = [a for dim in source.layout.dims for a in dim]
        whole = self.edit.reshape(whole, [a.size for a in atoms] or [1])
        whole = self.edit.transpose(whole, [atoms.index(a) for a in target])
        whole = self.edit.reshape(whole, source.layout.shape)
        whole.shape, whole.type = ir.Shape(source.layout.shape), source.value.type
        return whole

    def set_dense(self, value: ir.Value, edit: ir.Value) -> None:
        self.info[value] = Dense(value, edit)

    # ---- static values -------------------------------------------------------------------------------------

    def depends_on_free(self, value: ir.Value) -> bool:
        """Whether a static value follows from an input that may change between edits."""
        if value not in self._depends:
            node = value.producer()
            if node is None:
                found = value.name in self.free and not is_constant(value)
            else:
                inputs = [v for v in node.inputs if v is not None]
                leaf = any(not isinstance(self.info.get(v, Static(v)), Static) for v in inputs)
                found = not leaf and any(self.depends_on_free(v) for v in inputs)
            self._depends[value] = found
        return self._depends[value]

    def edit_value(self, value: ir.Value) -> ir.Value:
        """A static value in the edit graph, in its own shape."""
        if is_constant(value):
            assert value.name is not None and value.const_value is not None
            return self.edit.initializer(value.name, value.const_value)
        key = (value, None)
        if key not in self._static:
            if not self.depends_on_free(value):
                found = self._cache("static", value, value, None, static_shape(value)).edit
            elif value.producer() is None:
                shape = static_shape(value)
                assert value.name is not None and value.dtype is not None and shape is not None
                found = self.edit_input(value.name, value.dtype, shape)
            else:
                node = value.producer()
                assert node is not None
                outputs = self.edit.clone(
                    node, [None if v is None else self.edit_value(v) for v in node.inputs]
                )
                for original, copy in zip(node.outputs, outputs, strict=True):
                    self._static[(original, None)] = copy
                found = self._static[key]
            self._static[key] = found
        return self._static[key]

    def static_form(self, value: ir.Value, form: Form, *, join: bool = True) -> ir.Value:
        """A non-spatial value reshaped for the rows; recorded values are reshaped once, by record."""
        info = self.info.get(value, Static(value))
        if isinstance(info, Dense):
            return form.of_value(self.edit, info.edit)
        if is_constant(value):
            assert value.const_value is not None
            return self.edit.constant(form.of_array(value.const_value.numpy()), value.name or "const")
        if join:
            self.join(value)
        key = (value, form)
        if key not in self._static:
            before = undone(value, form)
            if self.depends_on_free(value) and before is not None:
                self._static[key] = self.edit.reshape(self.edit_value(before), form.shape)
                self._static[key].shape = ir.Shape(form.shape)
            elif self.depends_on_free(value):
                self._static[key] = form.of_value(self.edit, self.edit_value(value))
            else:
                shaped = form.of_value(self.record, value)
                self._static[key] = self._cache("static", value, shaped, None, form.shape).edit
        return self._static[key]

    def join(self, value: ir.Value) -> None:
        """Note that this static value reaches every pixel: the inputs behind it cannot change between
        edits."""
        self.joins.append((value, self.node.name or self.node.op_type if self.node is not None else ""))

    def _cache(
        self, kind: str, value: ir.Value, recorded: ir.Value, level: str | None, shape: tuple[int, ...] | None
    ) -> Cache:
        if shape is None or value.dtype is None:
            raise Refusal(f"{value.name} has no static shape")
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", value.name or "value").strip("_")
        name, n = f"{kind}.{stem}", 1
        while name in self.caches:
            n += 1
            name = f"{kind}.{stem}_{n}"
        output = self.record.op("Identity", [recorded], dtype=value.dtype)
        output.name = name
        output.shape = ir.Shape(shape)
        edit = self.edit_input(name, value.dtype, shape)
        self.caches[name] = Cache(name, kind, output, edit, tuple(shape), level)
        return self.caches[name]

    # ---- weights -------------------------------------------------------------------------------------------

    def weight(self, original: ir.Value, relayout: Relayout) -> ir.Value:
        """A weight in the layout of the rows GEMM: an initializer, or a cache where record computes the
        weight."""
        if not is_constant(original):
            require(isinstance(self.info[original], Static), "its weights follow from the edited pixels")
            return self.static_form(original, Form(relayout.split, relayout.perm, None, relayout.stored))
        stored = self.store.stored(original, relayout)
        if stored is None:
            assert original.const_value is not None
            return self.edit.constant(relayout.apply(original.const_value.numpy()), relayout.name)
        return self.edit.initializer(*stored)

    def parameter(self, value: ir.Value | None) -> ir.Value | None:
        """A bias or the like in the edit graph, in its own shape."""
        if value is None:
            return None
        require(isinstance(self.info[value], Static), "its bias follows from the edited pixels")
        if not is_constant(value):
            self.join(value)
        return self.edit_value(value)


def _inside(taps: AxisTaps) -> AxisTaps:
    """The taps themselves, unless some target reads padding alone: such a target then reads the source
    coordinate of the nearest one that does not, so that it is active together with its surroundings."""
    reads = (taps.index >= 0).any(axis=1)
    if reads.all() or not reads.any():
        return taps
    wet = np.flatnonzero(reads)
    nearest = wet[np.abs(np.arange(taps.n_out)[:, None] - wet[None]).argmin(axis=1)]
    return AxisTaps(taps.index[nearest], taps.source_size)
