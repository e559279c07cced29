"""torch.nn.Module -> ONNX model with the module's own argument and output names."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.errors import ExportError
from sige_deploy.ops import OPSET

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


def to_onnx(module: torch.nn.Module, example_inputs: Mapping[str, Any]) -> ir.Model:
    """Export with ``torch.onnx.export(dynamo=True)`` at static shapes.

    example_inputs: forward()'s argument names -> tensors or arrays. Outputs are named by forward()'s dict
    keys or dataclass fields; "output" for a single tensor; "output_0", "output_1", ... for a sequence.
    Raises ExportError when torch cannot trace the module.
    """
    program = trace(module, example_inputs)
    model: ir.Model = program.model
    _name_outputs(model, program.exported_program)
    return model


def trace(module: torch.nn.Module, example_inputs: Mapping[str, Any]) -> torch.onnx.ONNXProgram:
    """The module as torch traces it for `to_onnx`: its values have the names that the ONNX model gives them.
    Raises ExportError when torch cannot trace it."""
    import torch

    tensors = {name: torch.as_tensor(value) for name, value in example_inputs.items()}
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                (),
                kwargs=tensors,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        line = (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]
        raise ExportError(
            f"torch could not trace {type(module).__name__} ({line}); make its forward() traceable by "
            "torch.export, or export it to ONNX yourself and give the .onnx file."
        ) from error
    finally:
        module.train(training)
    assert program is not None
    return program


def as_arrays(example_inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors or arrays as numpy arrays. Raises ExportError for anything else."""
    arrays = {}
    for name, value in example_inputs.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if not isinstance(value, np.ndarray):
            raise ExportError(
                f"Example input '{name}' is a {type(value).__name__}; give a tensor or array with the shape "
                "and dtype of use."
            )
        arrays[name] = value
    return arrays


def _name_outputs(model: ir.Model, exported: Any) -> None:
    from torch.utils import _pytree

    outputs = list(model.graph.outputs)
    spec = exported.call_spec.out_spec if exported is not None else None
    names: list[str] = []
    if spec is not None and spec.num_leaves == len(outputs):
        names = list(_leaf_names(_pytree.tree_unflatten(list(range(len(outputs))), spec), ""))
    if len(names) != len(outputs) or len(set(names)) != len(names):
        names = ["output"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    taken = {v.name for v in model.graph.inputs}
    for value, name in zip(outputs, names, strict=True):
        value.name = f"{name}_out" if name in taken else name


def _leaf_names(tree: Any, prefix: str) -> Iterator[str]:
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if value is not None:
                yield from _leaf_names(value, f"{prefix}_{key}" if prefix else str(key))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            if len(tree) == 1:
                yield from _leaf_names(value, prefix)
            else:
                yield from _leaf_names(value, f"{prefix or 'output'}_{i}")
    elif tree is not None:
        yield prefix or "output"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter talks on stdout and through warnings; neither is for our users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
