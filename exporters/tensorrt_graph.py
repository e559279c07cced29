"""The edit graph in the form in which TensorRT runs it on the plugins of plugins/tensorrt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sige_deploy.ops import DOMAIN, SIGNATURES, VERSION

if TYPE_CHECKING:
    import onnx_ir as ir


def for_tensorrt(edit: ir.Model) -> ir.Model:
    """Change an edit graph, in place, into what TensorRT's parser and the plugins read.

    TensorRT numbers a plugin's inputs without gaps, so a `sige` node keeps only the inputs it has, and the
    string attribute `inputs` gives their names in order, with spaces between. `plugin_namespace` and
    `plugin_version` are what the parser finds the plugin by, and every attribute of the op is written out, as
    the parser warns of one that it misses. The function bodies go: they count inputs with gaps, and a node
    whose plugin is not loaded has to stop the parser. Each node gets a name of its own, by which its plugin
    is known.

    The result is for TensorRT alone. Returns `edit`.
    """
    from onnx_ir import convenience

    named: set[str] = set()
    for i, node in enumerate(edit.graph):
        if node.domain != DOMAIN:
            continue
        if not node.name or node.name in named:
            node.name = f"{node.op_type}_{i}"
        named.add(node.name)
        signature = SIGNATURES[node.op_type]
        signature.check(node)
        present = [(name, value) for name, value in zip(signature.inputs, node.inputs) if value is not None]
        told = {name: signature.attribute(node, name) for name in signature.attributes}
        told["inputs"] = " ".join(name for name, _ in present)
        told |= {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}
        node.attributes.update({a.name: a for a in convenience.convert_attributes(told)})
        node.resize_inputs(len(present))
        for position, (_, value) in enumerate(present):
            node.replace_input_with(position, value)
        node.overload = ""
    for identifier in [key for key in edit.functions if key[0] == DOMAIN]:
        del edit.functions[identifier]
    return edit
