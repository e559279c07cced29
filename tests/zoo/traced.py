"""Keeps what torch traces of the zoo's networks: most of an export, the same for all settings."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import onnx_ir as ir
import pytest
from torch import Tensor, nn

from sige_deploy.exporters import torch as exporter
from zoo.registry import MODULES

_kept: WeakKeyDictionary[nn.Module, dict[tuple, ir.Model]] = WeakKeyDictionary()


def trace_once(patch: pytest.MonkeyPatch) -> None:
    """Has exports of `Entry.module()` begin with what was traced first for inputs of these shapes."""
    to_onnx = exporter.to_onnx

    def kept(module: nn.Module, example_inputs: Mapping[str, Tensor]) -> ir.Model:
        if module not in MODULES:
            return to_onnx(module, example_inputs)
        models = _kept.setdefault(module, {})
        signature = tuple((name, tensor.shape, tensor.dtype) for name, tensor in example_inputs.items())
        if signature not in models:
            models[signature] = to_onnx(module, example_inputs)
        return models[signature].clone()

    patch.setattr(exporter, "to_onnx", kept)
