"""Assembling the graphs of a bundle from what the pass wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from sige_deploy.exporters.versions import version
from sige_deploy.graph.builder import Builder
from sige_deploy.graph.fuse import fuse
from sige_deploy.graph.normalise import inline_moments
from sige_deploy.graph.translate import Translation
from sige_deploy.ops import DOMAIN, OPSET, VERSION, function_for

#: Standard ops that only give a tensor another shape: no engine launches anything for them.
VIEWS = frozenset("Constant Flatten Reshape Shape Size Squeeze Unsqueeze".split())


def build_edit(translation: Translation) -> ir.Model:
    """The edit graph with the function body of every sige op."""
    ctx = translation.context
    fuse(ctx)
    _drop_caches(translation)
    graph = ir.Graph(
        list(ctx.inputs.values()),
        _outputs(translation),
        nodes=ctx.edit.nodes,
        initializers=list(ctx.edit.initializers.values()),
        opset_imports={"": OPSET, DOMAIN: VERSION},
        name="edit",
    )
    producer = {"producer_name": "sige_deploy", "producer_version": version("sige-deploy")}
    model = ir.Model(graph, ir_version=11, **producer)  # type: ignore[arg-type]
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    needed = _reached(model.graph.outputs)
    model.graph.inputs[:] = [v for v in model.graph.inputs if v in needed]
    inline_moments(model)
    model.opset_imports[DOMAIN] = VERSION
    RemoveUnusedNodesPass()(model)
    _mark_early(model.graph)
    for node in model.graph:
        if node.domain == DOMAIN:
            function = function_for(node)
            node.overload = function.overload
            model.functions[function.identifier()] = function
            if len(node.inputs) == 1:  # a lone input of a function that has further ones aborts ONNX Runtime
                node.resize_inputs(2)
    return model


def _mark_early(graph: ir.Graph) -> None:
    """Set `early` on the Convs that may run beside those in front of them: they read the network's inputs
    alone, as those do that make the features of a label map that every block modulates with."""
    outputs = set(graph.outputs)
    for node in graph:
        if (node.domain, node.op_type) != (DOMAIN, "Conv") or node.outputs[0] not in outputs:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        given = all(v is None or v.producer() is None for v in node.inputs)
        if given and readers and all(reader.domain == DOMAIN for reader in readers):
            node.attributes["early"] = ir.AttrInt64("early", 1)


def launches(edit: ir.Model) -> dict[str, int]:
    """Nodes of the edit graph by op type that a device launches a kernel for, the most frequent first."""
    counted = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in edit.graph
        if node.domain or node.op_type not in VIEWS
    )
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def inlined(edit: ir.Model) -> ir.Model:
    """The edit graph in standard ops alone, for engines that do not tell the overloads of a function
    apart."""
    model = edit.clone()
    InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _drop_caches(translation: Translation) -> None:
    """Drop caches that nothing needs. The rows that commit writes into a kept cache may read further ones."""
    caches = translation.context.caches
    needed: set[ir.Value] = set()
    wanted = [o.edit for o in translation.outputs]
    while wanted:
        needed |= _reached(wanted)
        kept = [c.rows for c in caches.values() if c.edit in needed and c.rows is not None]
        wanted = [rows for rows in kept if rows not in needed]
    for name in [n for n, cache in caches.items() if cache.edit not in needed]:
        del caches[name]


def _outputs(translation: Translation) -> list[ir.Value]:
    """The network's outputs under their own names, then the fresh rows that commit writes into bases.

    A value takes the output's name; only inputs, and values with two names, are copied.
    """
    ctx = translation.context
    outputs: list[ir.Value] = []
    for output in translation.outputs:
        node = output.edit.producer()
        assert node is not None and node.op_type == "Identity"
        value = node.inputs[0]
        assert value is not None
        if value.producer() is None or value in outputs:
            value = output.edit
        else:
            value.name, value.shape, value.type = output.edit.name, output.edit.shape, output.edit.type
        outputs.append(value)
    for cache in ctx.caches.values():
        if cache.rows is None or cache.rows in outputs:
            continue
        if cache.rows.producer() is None:
            shape = cache.rows.shape
            cache.rows = ctx.edit.op("Identity", [cache.rows], dtype=cache.rows.dtype)
            cache.rows.shape = shape
        cache.rows.name = "fresh." + cache.name.removeprefix("base.")
        outputs.append(cache.rows)
    return outputs


def _reached(outputs: Sequence[ir.Value]) -> set[ir.Value]:
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
    stored: dict[str, ir.Value] = {}
    for original, relayout in store.relayouts.items():
        value = graph.initializers.get(original)
        if value is None or not value.uses():
            continue
        builder = Builder(f"{original}/")
        builder.initializers |= stored
        restored = store.read(builder, relayout)
        restored.shape, restored.type = value.shape, value.type
        value.replace_all_uses_with(restored)
        del graph.initializers[original]
        for name, initializer in builder.initializers.items():
            graph.register_initializer(initializer)
            if name in store.tensors:
                stored[name] = initializer
        graph.insert_before(graph[0], builder.nodes)
