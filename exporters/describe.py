"""The manifest of an exported network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sige_deploy.config import SparseConfig
from sige_deploy.exporters.graphs import launches
from sige_deploy.exporters.versions import version
from sige_deploy.geometry import Geometry
from sige_deploy.graph.builder import static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.translate import Output, Translation
from sige_deploy.graph.values import Cache
from sige_deploy.manifest import (
    CacheSpec,
    GeometrySpec,
    InputSpec,
    IslandSpec,
    LevelSpec,
    Manifest,
    OutputSpec,
    PlannerSpec,
    PolicySpec,
    RefusalSpec,
)
from sige_deploy.masks import MaskPolicy
from sige_deploy.ops import DOMAIN, SIGNATURES

PACKAGES = ("sige-deploy", "torch", "onnx", "onnxscript", "onnx-ir", "numpy")


def used_geometries(translation: Translation) -> list[Geometry]:
    """Geometries that the edit graph reads, and those that decide a level's mask."""
    wanted = _used(translation)[1]
    return [g for g in translation.context.geometries.values() if g.id in wanted]


def describe(
    name: str,
    dense: ir.Model,
    edit: ir.Model,
    translation: Translation,
    spatial: Sequence[str],
    config: SparseConfig,
) -> Manifest:
    """The manifest of a bundle, but for its list of files."""
    ctx = translation.context
    policy = MaskPolicy(config.eps, config.dilate, config.threshold, config.level_dilate, config.granularity)
    floats = [
        v for v in dense.graph.initializers.values() if v.dtype is not None and v.dtype.is_floating_point()
    ]
    return Manifest(
        name=name,
        inputs=[_input(v, translation, spatial) for v in dense.graph.inputs],
        outputs=[_output(v, o) for v, o in zip(dense.graph.outputs, translation.outputs, strict=True)],
        levels=_levels(ctx, _used(translation)[0], policy),
        geometries=[
            GeometrySpec(id=g.id, source=g.source, target=g.target) for g in used_geometries(translation)
        ],
        caches=_caches(ctx, edit),
        policy=PolicySpec.model_validate(
            {n: getattr(config, n) for n in ("eps", "dilate", "threshold", "statistics")}
        ),
        planner=PlannerSpec(dense_above=config.dense_above),
        islands=[IslandSpec(node=i.node, op=i.op, reason=i.reason, bytes=i.bytes) for i in ctx.islands],
        refusals=[RefusalSpec(node=r.node, op=r.op, reason=r.reason) for r in ctx.refusals],
        precision=_precision(floats),
        launches=launches(edit),
        macs=sum(ctx.macs.values()),
        parameters=sum(element_count(v) for v in floats),
        producer={package.replace("-", "_"): version(package) for package in PACKAGES},
    )


def _precision(weights: Sequence[ir.Value]) -> str:
    """The type that most of the weights have: a half network may keep a few constants in float32."""
    sizes = {"float16": 0, "float32": 0}
    for value in weights:
        sizes["float16" if value.dtype == ir.DataType.FLOAT16 else "float32"] += element_count(value)
    return "float16" if sizes["float16"] > sizes["float32"] else "float32"


def element_count(value: ir.Value) -> int:
    """Elements of a value of static shape."""
    return math.prod(static_shape(value) or ())


def _used(translation: Translation) -> tuple[set[str], set[str]]:
    """Ids of the levels and geometries that a session needs: the edit graph's, and those they follow from."""
    ctx = translation.context
    named = [n.split(".", 1) for n in ctx.inputs]
    geometries = {rest for kind, *rests in named if kind == "table" for rest in rests}
    levels = {o.info.level for o in translation.outputs if o.info is not None}
    levels |= {rest for kind, *rests in named if kind == "active" for rest in rests}
    levels |= {c.level for c in ctx.caches.values() if c.level is not None}
    levels |= {level.id for level in ctx.levels.values() if level.shape in ctx.input_grids}
    size = -1
    while size != len(levels) + len(geometries):
        size = len(levels) + len(geometries)
        for id_ in geometries:
            levels |= {ctx.geometries[id_].source, ctx.geometries[id_].target}
        geometries |= {g for g in (ctx.levels[level].geometry for level in levels) if g is not None}
    return levels, geometries


def _levels(ctx: Context, used: set[str], policy: MaskPolicy) -> list[LevelSpec]:
    return [
        LevelSpec(
            id=level.id,
            height=level.height,
            width=level.width,
            geometry=level.geometry,
            granularity=policy.granularity_of(level.id),
            dilation=policy.dilation_of(level.id),
            threshold=policy.threshold,
            macs=ctx.macs.get(level.id, 0),
        )
        for level in ctx.levels.values()
        if level.id in used
    ]


def _caches(ctx: Context, edit: ir.Model) -> list[CacheSpec]:
    reads = _reads(edit)
    return [
        CacheSpec.model_validate(
            {
                "name": cache.name,
                "kind": cache.kind,
                "level": cache.level,
                "rows": cache.rows.name if cache.rows is not None else None,
                "rows_channels": _rows_channels(cache),
                "rows_offset": cache.offset,
                "reads": reads.get(cache.name, []) if cache.kind == "base" else None,
                "shape": list(cache.shape),
                "dtype": _dtype(cache.edit),
            }
        )
        for cache in ctx.caches.values()
    ]


def _rows_channels(cache: Cache) -> int | None:
    """Channels of the rows, if they are more than the cache's own."""
    if cache.rows is None:
        return None
    assert cache.rows.shape is not None
    channels = cache.rows.shape[2]
    assert isinstance(channels, int)
    return None if channels == cache.shape[2] else channels


def _reads(edit: ir.Model) -> dict[str, list[str] | None]:
    """By name of a graph input: the geometries through whose halos the sige ops read it, None where any other
    reader needs it whole."""
    reads: dict[str, list[str] | None] = {}
    for node in edit.graph:
        signature = SIGNATURES.get(node.op_type) if node.domain == DOMAIN else None
        named = dict(zip(signature.inputs, node.inputs)) if signature is not None else {}
        halo = named.get("halo")
        for position, value in enumerate(node.inputs):
            if value is None or value.producer() is not None:
                continue
            name = value.name or ""
            through = signature is not None and signature.inputs[position] in ("base", "base_2")
            if through and halo is not None and (halo.name or "").startswith("halo."):
                ids = reads.setdefault(name, [])
                if ids is not None and (halo.name or "")[5:] not in ids:
                    ids.append((halo.name or "")[5:])
            else:
                reads[name] = None
    for value in edit.graph.outputs:
        reads[value.name or ""] = None
    return reads


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(np.dtype(value.dtype.numpy()))


def _common(value: ir.Value) -> dict[str, Any]:
    return {"name": value.name, "shape": list(static_shape(value) or ()), "dtype": _dtype(value)}


def _input(value: ir.Value, translation: Translation, spatial: Sequence[str]) -> InputSpec:
    fields, name = _common(value), value.name or ""
    if name in spatial:
        height, width = fields["shape"][-2:]
        axes = list("NCYX"[4 - len(fields["shape"]) :])
        fields |= {"role": "spatial", "level": f"{height}x{width}", "axes": axes}
    elif name in translation.pinned:
        fields |= {"role": "pinned", "reason": f"it reaches every pixel through {translation.pinned[name]}"}
    else:
        fields |= {"role": "free"}
    return InputSpec.model_validate(fields)


def _output(value: ir.Value, output: Output) -> OutputSpec:
    fields = _common(value)
    if output.info is not None:
        layout = output.info.layout
        reading = layout.reading_order()
        fields |= {
            "level": output.info.level,
            "layout": [[(a.kind, a.size) for a in dim] for dim in layout.dims],
            "order": [reading.index(a) for a in layout.order],
        }
    return OutputSpec.model_validate(fields)
