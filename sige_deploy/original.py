"""The network that a bundle was exported from, on the CPU, to compare the bundle with."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.bundle import Bundle
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.layers import Marked, mark

if TYPE_CHECKING:
    import torch

Arrays = dict[str, np.ndarray]
_FORM = "give MODULE:FACTORY or FILE.py:FACTORY, a function without arguments that returns a torch.nn.Module"


def load_module(text: str) -> torch.nn.Module:
    """The network of "package.module:factory" or "folder/file.py:factory", imported from the working folder
    or Python's path. Raises InputError with one sentence where that fails."""
    name, colon, factory = text.rpartition(":")
    if not (name and colon and factory):
        raise InputError(f"'{text}' names no network; {_FORM}.")
    try:
        made = getattr(_imported(name), factory)()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"cannot make the network '{text}' ({reason}); {_FORM}.") from error
    if not (hasattr(made, "forward") and hasattr(made, "parameters")):
        raise InputError(f"'{text}' returned a {type(made).__name__}; {_FORM}.")
    return made


def _imported(name: str) -> Any:
    if not name.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Original(ABC):
    """The original network."""

    name: str

    @abstractmethod
    def outputs(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs by the bundle's names. Raises RuntimeFailure when the network fails, InputError when it
        has other inputs or outputs."""

    @abstractmethod
    def values(self, graph: Marked, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs, and all values on the way that have names of the bundle's dense graph. Raises as
        `outputs`, and InputError when there are none."""


class TorchOriginal(Original):
    """A torch module, run in float32 where the bundle has halved it."""

    name = "torch cpu"

    def __init__(self, bundle: Bundle, module: torch.nn.Module) -> None:
        self._manifest = bundle.manifest
        self._half = bundle.manifest.precision == "float16"
        self._module = (module.float() if self._half else module).eval()

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        import torch

        try:
            with torch.no_grad():
                made = self._module(**self._tensors(inputs))
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RuntimeFailure(
                f"{type(self._module).__name__} failed in torch ({reason}); give the exported module."
            ) from error
        return self._named(made)

    def values(self, graph: Marked, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Those of the traced module, by the names that its export gives them. Raises ExportError when torch
        cannot trace it."""
        import torch

        from sige_deploy.exporters.torch import trace

        tensors = self._tensors(inputs)
        seen: Arrays = {}

        class Interpreter(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                value = super().run_node(n)
                if n.op == "call_function" and isinstance(value, torch.Tensor):
                    seen[n.name] = value.numpy(force=True)
                return value

        module = trace(self._module, tensors).exported_program.module()
        order = [node.target for node in module.graph.nodes if node.op == "placeholder"]
        with torch.no_grad():
            given = [tensors[name] for name in order]
            made = Interpreter(module).run(*given, enable_io_processing=False)
        return _shared(graph, seen, self._named(made))

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        import torch

        arrays = {spec.name: inputs[spec.name] for spec in self._manifest.inputs}
        if self._half:
            arrays = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in arrays.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def _named(self, made: Any) -> Arrays:
        import torch
        from torch.utils import _pytree

        found = [leaf for leaf in _pytree.tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        names = [output.name for output in self._manifest.outputs]
        if len(found) != len(names):
            raise InputError(
                f"{type(self._module).__name__} has {len(found)} outputs, the bundle has {len(names)} "
                f"({', '.join(names)}); give the module that was exported."
            )
        return {name: value.numpy(force=True) for name, value in zip(names, found)}


class OnnxOriginal(Original):
    """An .onnx file on ONNX Runtime."""

    def __init__(self, bundle: Bundle, path: Path, threads: int | None) -> None:
        self.name = f"{path.name}, onnxruntime cpu"
        self._manifest, self._path, self._threads = bundle.manifest, path, threads

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return self._run(None, inputs)

    def values(self, graph: Marked, inputs: Mapping[str, np.ndarray]) -> Arrays:
        found = self._run(mark(self._path).model, inputs)
        names = {output.name for output in self._manifest.outputs}
        return _shared(graph, found, {name: found[name] for name in names})

    def _run(self, model: bytes | None, inputs: Mapping[str, np.ndarray]) -> Arrays:
        from sige_deploy.runtimes.onnxruntime_session import create, translated

        session = create(self._path, ["CPUExecutionProvider"], self._threads, model=model)
        wanted = [[x.name for x in side] for side in (session.get_inputs(), session.get_outputs())]
        known = [[x.name for x in side] for side in (self._manifest.inputs, self._manifest.outputs)]
        if not set(wanted[0]) <= set(known[0]) or not set(known[1]) <= set(wanted[1]):
            raise InputError(f"'{self._path}' has other inputs or outputs; give the file that was exported.")
        with translated(f"'{self._path}'"):
            given = {node.name: _as(node.type, inputs[node.name]) for node in session.get_inputs()}
            found = dict(zip(wanted[1], session.run(wanted[1], given)))
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _as(kind: str, array: np.ndarray) -> np.ndarray:
    """The array as an input of ONNX Runtime's type `kind`: a bundle may have halved the network."""
    return array.astype(np.float32) if kind == "tensor(float)" and array.dtype == np.float16 else array


def _shared(graph: Marked, seen: Arrays, outputs: Arrays) -> Arrays:
    if not any(name in graph.operators and name not in outputs for name in seen):
        raise InputError(
            "no value of the bundle's dense graph has a name of the network's, as when another version of "
            "torch exported it; compare the outputs alone, without layers."
        )
    return {**seen, **outputs}
