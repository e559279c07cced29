"""From a torch module or an .onnx file to a bundle."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.bundle import Bundle, write_bundle
from sige_deploy.config import SparseConfig
from sige_deploy.errors import ExportError
from sige_deploy.geometry import geometries_to_tensors
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

if TYPE_CHECKING:
    import onnx_ir as ir

    from sige_deploy.graph.translate import Translation

Progress = Callable[[str, int, int], None]


def export(
    model: Any,
    example_inputs: Mapping[str, Any],
    path: str | os.PathLike[str],
    spatial: Sequence[str],
    config: SparseConfig | None = None,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a network into a bundle folder.

    model: a torch.nn.Module (run in eval mode), or the path of an .onnx file of any framework.
    example_inputs: names of forward()'s arguments (or ONNX inputs) -> tensors; their shapes and dtypes are the bundle's.
    spatial: names of the inputs that edits change, each [B, C, H, W] or [C, H, W].
    progress: called as progress(stage, done, total) before every stage.
    Raises ExportError with the reason when an input does not fit or the network cannot be converted. Nothing is left at
    ``path`` unless the export is complete.
    """
    _require_packages()
    from sige_deploy.exporters.onnx import load
    from sige_deploy.exporters.torch import as_arrays, to_onnx
    from sige_deploy.graph.normalise import expand_composites, prepare
    from sige_deploy.graph.translate import translate

    config = config or SparseConfig()
    report = progress or (lambda stage, done, total: None)
    report("read the network", 0, 5)
    from_file = isinstance(model, (str, os.PathLike))
    arrays = as_arrays(example_inputs)
    loaded = load(model) if from_file else to_onnx(model, example_inputs)
    _check_inputs(loaded, arrays, spatial)
    report("fold constants", 1, 5)
    dense = prepare(loaded, {n: a.shape for n, a in arrays.items()})
    _check_names(dense, spatial)
    record = dense.clone()
    expand_composites(record)
    report("rewrite to rows", 2, 5)
    translation = translate(record, spatial, config)
    edit = build_edit(translation)
    extend_record(record, translation)
    restore_weights(dense, translation)
    restore_weights(record, translation)
    stem = name or (Path(model).stem if from_file else type(model).__name__)
    report("write the bundle", 3, 5)
    with write_bundle(path) as writer:
        models = {"dense": dense, "record": record, "edit": edit, "edit_inlined": inlined(edit)}
        _write_files(writer.folder, models, translation)
        report("hash the files", 4, 5)
        bundle = writer.finish(_manifest(stem, dense, edit, translation, spatial, config))
    report("done", 5, 5)
    return bundle


def build_edit(translation: Translation) -> ir.Model:
    """The edit graph with the function body of every sige op."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from sige_deploy.graph.normalise import inline_moments
    from sige_deploy.ops import DOMAIN, OPSET, VERSION, function_for

    ctx = translation.context
    outputs = [o.edit for o in translation.outputs]
    for cache in ctx.caches.values():
        if cache.rows is not None:
            fresh = ctx.edit.op("Identity", [cache.rows], dtype=cache.rows.dtype)
            fresh.name, fresh.shape = commit_name(cache.name), cache.rows.shape
            outputs.append(fresh)
    graph = ir.Graph(
        list(ctx.inputs.values()), outputs, nodes=ctx.edit.nodes,
        initializers=list(ctx.edit.initializers.values()), opset_imports={"": OPSET, DOMAIN: VERSION}, name="edit",
    )  # fmt: skip
    model = ir.Model(graph, ir_version=11, producer_name="sige_deploy", producer_version=_version("sige-deploy"))
    model.graph.sort()
    _prune(translation, model)
    inline_moments(model)
    model.opset_imports[DOMAIN] = VERSION
    RemoveUnusedNodesPass()(model)
    for node in model.graph:
        if node.domain == DOMAIN:
            function = function_for(node)
            node.overload = function.overload
            model.functions[function.identifier()] = function
    return model


def inlined(edit: ir.Model) -> ir.Model:
    """The edit graph in standard ops alone, for engines that do not tell the overloads of a function apart."""
    from onnx_ir.passes.common import InlinePass

    model = edit.clone()
    InlinePass()(model)
    model.opset_imports.pop("sige", None)
    return model


def _prune(translation: Translation, model: ir.Model) -> None:
    """Drop what no model output needs: a cache whose only reader was dropped, its rows, and so on."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    caches = translation.context.caches
    commits = {commit_name(n): n for n in caches}
    RemoveUnusedNodesPass()(model)
    needed = _reached(model, [o for o in model.graph.outputs if o.name not in commits])
    keep = {n for n in caches if caches[n].edit in needed}
    changed = True
    while changed:  # the rows that commit writes may themselves read further caches
        outputs = [o for o in model.graph.outputs if o.name not in commits or commits[o.name] in keep]
        needed = _reached(model, outputs)
        grown = {n for n in caches if caches[n].edit in needed}
        changed, keep = grown != keep, grown
    for name in set(caches) - keep:
        del caches[name]
    kept = [o for o in model.graph.outputs if o.name not in commits or commits[o.name] in keep]
    model.graph.outputs[:] = kept
    RemoveUnusedNodesPass()(model)
    used = _reached(model, kept)
    inputs = [v for v in model.graph.inputs if v in used]
    model.graph.inputs[:] = inputs


def _reached(model: ir.Model, outputs: list[ir.Value]) -> set[ir.Value]:
    seen: set[ir.Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            stack.extend(v for v in node.inputs if v is not None)
    return seen


def commit_name(cache: str) -> str:
    """The edit graph's output that holds a base's fresh rows."""
    return "fresh." + cache.removeprefix("base.")


def extend_record(record: ir.Model, translation: Translation) -> None:
    """Append the cache outputs to the dense graph."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from sige_deploy.graph.normalise import inline_moments

    ctx = translation.context
    record.graph.extend(ctx.record.nodes)
    for value in ctx.record.initializers.values():
        record.graph.register_initializer(value)
    record.graph.outputs.extend(cache.record for cache in ctx.caches.values())
    inline_moments(record)
    RemoveUnusedNodesPass()(record)


def restore_weights(model: ir.Model, translation: Translation) -> None:
    """Let a dense graph read its convolution weights from the stored rows layout."""
    from sige_deploy.graph.builder import Builder

    store = translation.context.store
    graph = model.graph
    for original, relayout in store.relayouts.items():
        value = graph.initializers.get(original)
        if value is None or not value.uses():
            continue
        builder = Builder(f"{original}/")
        stored = builder.initializer(relayout.name, store.tensors[relayout.name])
        restored = relayout.restore(builder, stored)
        restored.shape, restored.type = value.shape, value.type
        value.replace_all_uses_with(restored)
        del graph.initializers[original]
        for initializer in builder.initializers.values():
            graph.register_initializer(initializer)
        graph.insert_before(graph[0], builder.nodes)


def _write_files(folder: Path, models: dict[str, ir.Model], translation: Translation) -> None:
    import onnx_ir as ir
    from safetensors.numpy import save_file

    from sige_deploy.exporters.weights import write_weights

    for model in models.values():
        model.metadata_props.clear()
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
    write_weights(models.values(), folder)
    for stem, model in models.items():
        ir.save(model, folder / f"{stem}.onnx")
    save_file(geometries_to_tensors(used_geometries(translation)), folder / "geometry.safetensors")


def used_geometries(translation: Translation) -> list[Any]:
    """Geometries that the edit graph reads, and those that decide a level's mask."""
    ctx = translation.context
    read = {name.split(".", 1)[1] for name in ctx.inputs if name.startswith("table.")}
    levels, geometries = _used_levels(translation, read)
    del levels
    return [g for g in ctx.geometries.values() if g.id in geometries]


def _used_levels(translation: Translation, read: set[str]) -> tuple[set[str], set[str]]:
    ctx = translation.context
    geometries = set(read)
    levels = {o.info.level for o in translation.outputs if o.info is not None}
    levels |= {n.split(".", 1)[1] for n in ctx.inputs if n.startswith("active.")}
    levels |= {c.level for c in ctx.caches.values() if c.level is not None}
    levels |= {n for n, level in ctx.levels.items() if level.geometry is None and level.shape in ctx.input_grids}
    grown = True
    while grown:
        before = len(levels), len(geometries)
        for g in list(geometries):
            levels |= {ctx.geometries[g].source, ctx.geometries[g].target}
        geometries |= {g for g in (ctx.levels[n].geometry for n in levels) if g is not None}
        grown = before != (len(levels), len(geometries))
    return levels, geometries


def _manifest(
    name: str, dense: ir.Model, edit: ir.Model, translation: Translation, spatial: Sequence[str], config: SparseConfig
) -> Manifest:
    ctx = translation.context
    read = {n.split(".", 1)[1] for n in ctx.inputs if n.startswith("table.")}
    levels, geometries = _used_levels(translation, read)
    policy = MaskPolicy(config.eps, config.dilate, config.threshold, config.level_dilate, config.granularity)
    floats = {str(np.dtype(v.dtype.numpy())) for v in dense.graph.initializers.values() if v.dtype.is_floating_point()}  # type: ignore[union-attr]
    return Manifest(
        name=name,
        inputs=[_input_spec(v, translation, spatial) for v in dense.graph.inputs],
        outputs=[_output_spec(v, o) for v, o in zip(dense.graph.outputs, translation.outputs, strict=True)],
        levels=[
            LevelSpec(
                id=level.id, height=level.height, width=level.width, geometry=level.geometry,
                granularity=policy.granularity_of(level.id), dilation=policy.dilation_of(level.id),
                threshold=config.threshold, macs=ctx.macs.get(level.id, 0),
            )
            for level in ctx.levels.values() if level.id in levels
        ],
        geometries=[
            GeometrySpec(id=g.id, source=g.source, target=g.target)
            for g in ctx.geometries.values() if g.id in geometries
        ],
        caches=[
            CacheSpec(
                name=c.name, kind=c.kind, shape=list(c.shape), dtype=_dtype_name(c.edit), level=c.level,  # type: ignore[arg-type]
                rows=commit_name(c.name) if c.rows is not None else None,
            )
            for c in ctx.caches.values()
        ],
        policy=PolicySpec(
            eps=config.eps, dilate=config.dilate, threshold=config.threshold, statistics=config.statistics
        ),
        planner=PlannerSpec(dense_above=config.dense_above),
        islands=[IslandSpec(node=i.node, op=i.op, reason=i.reason, bytes=i.bytes) for i in ctx.islands],
        refusals=[RefusalSpec(node=i.node, op=i.op, reason=i.reason) for i in ctx.refusals],
        precision="float16" if floats == {"float16"} else "float32",
        macs=sum(ctx.macs.values()),
        parameters=sum(
            int(np.prod(v.shape.numpy())) for v in dense.graph.initializers.values() if v.dtype.is_floating_point()  # type: ignore[union-attr]
        ),
        producer={"sige_deploy": _version("sige-deploy")}
        | {p: _version(p) for p in ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")},
    )  # fmt: skip


def _dtype_name(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(np.dtype(value.dtype.numpy()))


def _input_spec(value: ir.Value, translation: Translation, spatial: Sequence[str]) -> InputSpec:
    shape, dtype, name = [int(n) for n in value.shape], _dtype_name(value), value.name or ""  # type: ignore[union-attr, arg-type]
    if name in spatial:
        level = f"{shape[-2]}x{shape[-1]}"
        axes = list("NCYX"[4 - len(shape) :])
        return InputSpec(name=name, shape=shape, dtype=dtype, role="spatial", level=level, axes=axes)  # type: ignore[arg-type]
    if name in translation.pinned:
        reason = f"it reaches every pixel through {translation.pinned[name]}"
        return InputSpec(name=name, shape=shape, dtype=dtype, role="pinned", reason=reason)  # type: ignore[arg-type]
    return InputSpec(name=name, shape=shape, dtype=dtype, role="free")  # type: ignore[arg-type]


def _output_spec(value: ir.Value, output: Any) -> OutputSpec:
    shape, dtype, name = [int(n) for n in value.shape], _dtype_name(value), value.name or ""  # type: ignore[union-attr, arg-type]
    if output.info is None:
        return OutputSpec(name=name, shape=shape, dtype=dtype)  # type: ignore[arg-type]
    layout = output.info.layout
    reading = layout.reading_order()
    return OutputSpec(
        name=name, shape=shape, dtype=dtype, level=output.info.level,  # type: ignore[arg-type]
        layout=[[(a.kind, a.size) for a in dim] for dim in layout.dims],
        order=[reading.index(a) for a in layout.order],
    )  # fmt: skip


def _check_inputs(model: ir.Model, arrays: Mapping[str, np.ndarray], spatial: Sequence[str]) -> None:
    names = [v.name for v in model.graph.inputs]
    missing = [n for n in names if n not in arrays]
    extra = [n for n in arrays if n not in names]
    if missing or extra:
        said = [f"misses {', '.join(map(str, missing))}"] if missing else []
        said += [f"has {', '.join(extra)}, which the network does not use"] if extra else []
        raise ExportError(f"example_inputs {' and '.join(said)}; the network's inputs are {', '.join(map(str, names))}.")
    if not spatial:
        raise ExportError("No spatial input is named; give the names of the inputs that edits change in spatial=[...].")
    for n in spatial:
        if n not in arrays:
            raise ExportError(f"Spatial input '{n}' is not an input of the network; its inputs are {', '.join(map(str, names))}.")
        if arrays[n].ndim not in (3, 4):
            raise ExportError(
                f"Spatial input '{n}' has shape {list(arrays[n].shape)}; expected [B, C, H, W] or [C, H, W]."
            )
    for value in model.graph.inputs:
        given, wanted = arrays[value.name].dtype, value.dtype  # type: ignore[index]
        if wanted is not None and given != np.dtype(wanted.numpy()):
            raise ExportError(f"Example input '{value.name}' is {given}; the network takes {np.dtype(wanted.numpy())}.")


def _check_names(model: ir.Model, spatial: Sequence[str]) -> None:
    for value in model.graph.inputs:
        if not value.uses() and value.name in spatial:
            raise ExportError(f"Spatial input '{value.name}' does not reach any output; leave it out.")


def _require_packages() -> None:
    try:
        import onnx
        import onnx_ir
        import onnxscript
    except ImportError as error:
        raise ExportError(
            f"Exporting needs {error.name}, which is not installed; run pip install 'sige-deploy[export]'."
        ) from error
    del onnx, onnx_ir, onnxscript


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
