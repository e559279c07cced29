"""Assembling the graphs of a bundle from what the pass wrote."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from sige_deploy.exporters.versions import version
from sige_deploy.graph.builder import Builder
from sige_deploy.graph.fuse import fuse
from sige_deploy.graph.normalise import inline_moments
from sige_deploy.graph.translate import Translation
from sige_deploy.ops import DOMAIN, OPSET, VERSION, function_for


def build_edit(translation: Translation) -> ir.Model:
    """The edit graph with the function body of every sige op."""
    ctx = translation.context
    fuse(ctx)
    outputs = [o.edit for o in translation.outputs]
    for cache in ctx.caches.values():
        if cache.rows is not None:
            fresh = ctx.edit.op("Identity", [cache.rows], dtype=cache.rows.dtype)
            fresh.name, fresh.shape = commit_name(cache.name), cache.rows.shape
            outputs.append(fresh)
    graph = ir.Graph(
        list(ctx.inputs.values()),
        outputs,
        nodes=ctx.edit.nodes,
        initializers=list(ctx.edit.initializers.values()),
        opset_imports={"": OPSET, DOMAIN: VERSION},
        name="edit",
    )
    producer = {"producer_name": "sige_deploy", "producer_version": version("sige-deploy")}
    model = ir.Model(graph, ir_version=11, **producer)  # type: ignore[arg-type]
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
    """The edit graph in standard ops alone, for engines that do not tell the overloads of a function
    apart."""
    model = edit.clone()
    InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _prune(translation: Translation, model: ir.Model) -> None:
    """Drop caches that nothing needs. The rows that commit writes into a kept cache may read further ones."""
    caches = translation.context.caches
    commits = {commit_name(name): name for name in caches}
    needed: set[ir.Value] = set()
    size = -1
    while size != len(needed):
        size = len(needed)
        kept = [
            o for o in model.graph.outputs if o.name not in commits or caches[commits[o.name]].edit in needed
        ]
        needed = _reached(kept)
    for name in [n for n, cache in caches.items() if cache.edit not in needed]:
        del caches[name]
    model.graph.outputs[:] = kept
    RemoveUnusedNodesPass()(model)
    model.graph.inputs[:] = [v for v in model.graph.inputs if v in needed]


def _reached(outputs: list[ir.Value]) -> set[ir.Value]:
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
    ctx = translation.context
    record.graph.extend(ctx.record.nodes)
    for value in ctx.record.initializers.values():
        record.graph.register_initializer(value)
    record.graph.outputs.extend(cache.record for cache in ctx.caches.values())
    inline_moments(record)
    RemoveUnusedNodesPass()(record)


def restore_weights(model: ir.Model, translation: Translation) -> None:
    """Let a dense graph read its convolution weights from the stored rows layout."""
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
