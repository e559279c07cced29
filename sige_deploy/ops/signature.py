"""What an op of the domain looks like from outside: its inputs, and its attributes with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir

DOMAIN = "sige"
VERSION = 1
OPSET = 23
"""Version of the standard ONNX operators that function bodies are written in."""

AttributeValue = str | int | float


@dataclass(frozen=True)
class Signature:
    """One op: input names in order, which of them every node has, attribute defaults.

    Of the inputs in `together` a node has all or none; it has an input of `implied` exactly if it has all of
    those named there. A default of type `type` (e.g. `int`) marks an attribute that every node must set.
    """

    op_type: str
    inputs: tuple[str, ...]
    required: tuple[str, ...]
    output: str
    attributes: dict[str, AttributeValue | type]
    together: tuple[str, ...] = ()
    implied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, node: onnx_ir.Node) -> None:
        """Raises ExportError if `node` lacks an input or attribute, or sets one that the op does not have."""
        if (node.domain, node.op_type) != (DOMAIN, self.op_type):
            raise ExportError(
                f"Node {node.domain}::{node.op_type} is not {DOMAIN}::{self.op_type}; "
                f"use the function_for of its own op."
            )
        if len(node.inputs) > len(self.inputs):
            raise ExportError(
                f"{DOMAIN}::{self.op_type} takes at most {len(self.inputs)} inputs "
                f"({', '.join(self.inputs)}), but node {node.name!r} has {len(node.inputs)}."
            )
        present = self.present(node)
        for name in self.required:
            if name not in present:
                raise ExportError(
                    f"{DOMAIN}::{self.op_type} needs input {name!r}, which node {node.name!r} lacks."
                )
        if 0 < len(present.intersection(self.together)) < len(self.together):
            raise ExportError(
                f"{DOMAIN}::{self.op_type} takes {', '.join(self.together)} together or not at all, "
                f"but node {node.name!r} has only some of them."
            )
        for name, owners in self.implied.items():
            if (name in present) != present.issuperset(owners):
                raise ExportError(
                    f"{DOMAIN}::{self.op_type} takes {name} exactly if it takes {' and '.join(owners)}, "
                    f"which node {node.name!r} does not follow."
                )
        for name in node.attributes:
            if name not in self.attributes:
                raise ExportError(
                    f"{DOMAIN}::{self.op_type} has no attribute {name!r} (node {node.name!r}); "
                    f"it has {', '.join(self.attributes)}."
                )
        for name, default in self.attributes.items():
            if isinstance(default, type) and name not in node.attributes:
                raise ExportError(
                    f"{DOMAIN}::{self.op_type} needs attribute {name!r}, which node {node.name!r} lacks."
                )

    def present(self, node: onnx_ir.Node) -> set[str]:
        """Names of the inputs that `node` connects."""
        return {name for name, value in zip(self.inputs, node.inputs) if value is not None}

    def attribute(self, node: onnx_ir.Node, name: str) -> AttributeValue:
        """The node's value of an attribute, or the default."""
        if name in node.attributes:
            return node.attributes[name].value
        default = self.attributes[name]
        assert not isinstance(default, type), "check() comes first"
        return default
