"""One rule per file. A rule rewrites the nodes of its op types from dense to rows, or raises Refusal with the
reason."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import onnx_ir as ir

from sige_deploy.graph.context import Context

Rule = Callable[[ir.Node, Context], None]
RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these standard ONNX ops."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            assert op_type not in RULES, op_type
            RULES[op_type] = function
        return function

    return register


def load_rules() -> dict[str, Rule]:
    """Import every module of this package; returns the registry."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return RULES
