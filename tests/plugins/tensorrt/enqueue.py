"""Nodes of plugins without TensorRT, through enqueue.cpp; inputs are tensors named as in docs/ops.md."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sige_deploy.ops import SIGNATURES

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).with_suffix(".cpp")
_TYPES = {torch.float32: 0, torch.float16: 1, torch.int32: 3}

Inputs = Mapping[str, torch.Tensor | None]


class HostError(Exception):
    """A step that failed; the plugin's own sentence is on stderr."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * 3),
        ("most", ctypes.c_int64 * 3),
    )


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


def compile_host(path: Path) -> Path:
    """Builds enqueue.cpp into the shared library `path`. Raises HostError without a compiler."""
    compiler = shutil.which("c++")
    if not compiler:
        raise HostError("there is no C++ compiler")
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-I", ROOT / "plugins/tensorrt"]
    subprocess.run([compiler, *options, SOURCE, "-o", path, "-ldl"], check=True)
    return path


def names(op: str, inputs: Inputs) -> list[str]:
    """The node's inputs in the op's order; `op` as in docs/ops.md, "Gather"."""
    return [name for name in SIGNATURES[op].inputs if inputs.get(name) is not None]


def varying(op: str, inputs: Inputs) -> dict[tuple[str, int], str]:
    """Which sizes depend on the edit: (input, axis) to P (rows), Q (halo) or R (targets)."""
    targets = "R" if "table" in inputs else "P"
    found = {("rows", 1): "P", ("rows_2", 1): "P", ("halo", 0): "Q", ("table", 0): "R", ("active", 0): "P"}
    found |= {(name, 1): "P" for name in "qkv"} | {("residual", 1): targets, ("multiplier", 1): targets}
    return {place: symbol for place, symbol in found.items() if place[0] in names(op, inputs)}


def sizes(op: str, inputs: Inputs) -> dict[str, int]:
    """The sizes that depend on the edit, by symbol."""
    given = {name: value for name, value in inputs.items() if value is not None}
    return {symbol: given[name].shape[axis] for (name, axis), symbol in varying(op, inputs).items()}


class Host:
    """A plugin library. `host`: what compile_host made."""

    def __init__(self, host: Path, library: Path) -> None:
        self.library = ctypes.CDLL(str(host))
        self.library.host_error.restype = ctypes.c_char_p
        self.check(self.library.host_open(str(library).encode()))

    def check(self, status: int) -> None:
        """Raises HostError unless a call returned 0."""
        if status:
            raise HostError(self.library.host_error().decode())


class Node:
    """A node of an engine in an execution context.

    inputs: any of the node's later inputs, for dtypes, shapes and which there are. most: the largest sizes,
    by symbol. stored: made from what an engine stores of the plugin. workspace: bytes that runs get. largest:
    the output's largest shape.
    """

    def __init__(
        self,
        host: Host,
        op: str,
        inputs: Inputs,
        attributes: Mapping[str, Any],
        most: Mapping[str, int],
        stored: bool = False,
    ) -> None:
        self.host, self.op, self.most = host, op, most
        self.names = names(op, inputs)
        self._node, workspace, out = ctypes.c_void_p(), ctypes.c_uint64(), _Tensor()
        fields = _fields({"inputs": " ".join(self.names), **attributes})
        tensors = self._tensors(inputs)
        host.check(
            host.library.host_node(
                op.encode(), fields, len(fields), tensors, len(tensors), int(stored),
                ctypes.byref(self._node), ctypes.byref(out), ctypes.byref(workspace),
            )
        )  # fmt: skip
        self.workspace = workspace.value
        self.largest = [size if most < 0 else most for size, most in zip(out.sizes, out.most)]

    def close(self) -> None:
        """Ends the node; no run of it may be under way."""
        self.host.library.host_close(self._node)

    def shapes(self, inputs: Inputs) -> list[int]:
        """Sets the shapes of the runs that follow; returns the output's."""
        out = _Tensor()
        tensors = self._tensors(inputs)
        self.host.check(self.host.library.host_shapes(self._node, tensors, ctypes.byref(out)))
        return list(out.sizes)

    def enqueue(self, inputs: Inputs, out: int, workspace: int, stream: int) -> None:
        """Runs on a stream; addresses of device memory. Arrays without elements have address 0."""
        arrays = (ctypes.c_void_p * len(self.names))(*(x.data_ptr() for x in self._given(inputs).values()))
        pointers = [ctypes.c_void_p(address) for address in (out, workspace, stream)]
        self.host.check(self.host.library.host_enqueue(self._node, arrays, *pointers))

    def _given(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """The inputs that the node has, in order."""
        return {name: value for name in self.names if (value := inputs[name]) is not None}

    def _tensors(self, inputs: Inputs) -> ctypes.Array[_Tensor]:
        symbols = varying(self.op, inputs)
        made = []
        for name, value in self._given(inputs).items():
            shape = list(value.shape)
            most = [self.most[symbols[name, i]] if (name, i) in symbols else -1 for i in range(len(shape))]
            tensor = _Tensor(_TYPES[value.dtype], len(shape))
            tensor.sizes[: len(shape)], tensor.most[: len(shape)] = shape, most
            made.append(tensor)
        return (_Tensor * len(made))(*made)


def _fields(attributes: Mapping[str, Any]) -> Sequence[_Field]:
    """Attributes as TensorRT's parser hands them over; the array keeps their values alive."""
    fields = (_Field * len(attributes))()
    kept: list[Any] = []
    for field, (name, value) in zip(fields, attributes.items()):
        if isinstance(value, str):
            data: Any = ctypes.create_string_buffer(value.encode(), max(len(value), 1))
            field.type, field.length = 6, len(value)
        else:
            data = ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int32(value)
            field.type, field.length = (1 if isinstance(value, float) else 5), 1
        kept.append(data)
        field.name, field.data = name.encode(), ctypes.addressof(data)
    fields.kept = kept  # type: ignore[attr-defined]
    return fields
