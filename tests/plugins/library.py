"""The kernels' C API through ctypes; arrays are numpy arrays (CPU backend) or torch tensors (CUDA)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ACTIVATIONS = ("identity", "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
CPU, CUDA = 0, 1
API_VERSION = 7
ALIGNMENT = 256

_INT, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


def _struct(name: str, fields: str, **nested: type) -> type[ctypes.Structure]:
    """A structure from "type name" words: p pointer, i int32, f float, z size_t, or a nested structure."""
    types: dict[str, Any] = {"p": _POINTER, "i": _INT, "f": _FLOAT, "z": ctypes.c_size_t, **nested}
    words = fields.split()
    layout = [(field, types[kind]) for kind, field in zip(words[::2], words[1::2])]
    return type(name, (ctypes.Structure,), {"_fields_": layout})


Execution = _struct(
    "Execution",
    "i backend p workspace z workspace_bytes p parallel_for p parallel_context p stream p plans",
)
Source = _struct(
    "Source",
    "p rows p base p halo p table p scale p shift i dtype i batch i fresh i pixels i halo_count i targets "
    "i taps i channels i scale_batch i shift_batch i activation f alpha p rows_2 p base_2 i channels_2",
)
GatherArgs = _struct("GatherArgs", "source source i phases f pad_value p out", source=Source)
ConvArgs = _struct(
    "ConvArgs",
    "source source p weight p bias p embedding p multiplier p residual i outputs i group i embedding_batch "
    "i activation f alpha f norm_epsilon i gated i gate i allow_tf32 p out",
    source=Source,
)
ScatterArgs = _struct(
    "ScatterArgs", "p base p rows p active i dtype i batch i pixels i fresh i channels p out"
)
AttentionArgs = _struct(
    "AttentionArgs",
    "p q p k p v p k_base p v_base p active i dtype i batch i fresh i pixels i heads i dk i dv "
    "i q_stride i k_stride i v_stride i k_base_stride i v_base_stride f scale p out",
)


class KernelError(Exception):
    """A call that did not return SIGE_OK; `status` is what it returned."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def pointer(array: Any) -> int | None:
    """Address of a numpy array's or torch tensor's data; None for None."""
    if array is None:
        return None
    return array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data


def _dtype(array: Any) -> int:
    return {"float32": 0, "float16": 1}[str(array.dtype).removeprefix("torch.")]


def _source(inputs: Mapping[str, Any], activation: str, alpha: float) -> ctypes.Structure:
    rows, base, halo, table = (inputs.get(name) for name in ("rows", "base", "halo", "table"))
    assert rows is not None
    sizes = (0, 0, rows.shape[1], 1) if table is None else (base.shape[1], halo.shape[0], *table.shape)
    scale, shift, rows_2, base_2 = (inputs.get(name) for name in ("scale", "shift", "rows_2", "base_2"))
    channels_2 = 0 if rows_2 is None else rows_2.shape[2]
    return Source(
        *(pointer(array) for array in (rows, base, halo, table, scale, shift)),
        _dtype(rows), rows.shape[0], rows.shape[1], *sizes, rows.shape[2] + channels_2,
        1 if scale is None else scale.shape[0], 1 if shift is None else shift.shape[0],
        ACTIVATIONS.index(activation), alpha, pointer(rows_2), pointer(base_2), channels_2,
    )  # fmt: skip


def source_channels(inputs: Mapping[str, Any]) -> int:
    """The number of channels that a Gather or Conv reads."""
    return sum(inputs[name].shape[2] for name in ("rows", "rows_2") if inputs.get(name) is not None)


def conv_outputs(inputs: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
    """The number of channels that a Conv writes."""
    return inputs["weight"].shape[2] // (2 if attributes.get("gate") else 1)


def gather_args(inputs: Mapping[str, Any], attributes: Mapping[str, Any], out: Any) -> ctypes.Structure:
    """The arguments of Gather for inputs and attributes named as in docs/ops.md."""
    source = _source(inputs, attributes.get("activation", "identity"), attributes.get("alpha", 0.01))
    return GatherArgs(source, attributes.get("phases", 1), attributes.get("pad_value", 0.0), pointer(out))


def conv_args(
    inputs: Mapping[str, Any], attributes: Mapping[str, Any], out: Any, weight: Any = None
) -> ctypes.Structure:
    """The arguments of Conv; `weight` is the packed weight, None takes the input of that name."""
    source = _source(inputs, attributes.get("activation_in", "identity"), attributes.get("alpha_in", 0.01))
    embedding, gate = inputs.get("embedding"), attributes.get("gate", "")
    return ConvArgs(
        source,
        pointer(inputs["weight"] if weight is None else weight),
        *(pointer(inputs.get(name)) for name in ("bias", "embedding", "multiplier", "residual")),
        conv_outputs(inputs, attributes),
        attributes.get("group", 1),
        1 if embedding is None else embedding.shape[0],
        ACTIVATIONS.index(attributes.get("activation_out", "identity")),
        attributes.get("alpha_out", 0.01),
        attributes.get("norm_epsilon", 0.0),
        int(bool(gate)),
        ACTIVATIONS.index(gate or "identity"),
        int(attributes.get("allow_tf32", False)),
        pointer(out),
    )


def scatter_args(inputs: Mapping[str, Any], out: Any) -> ctypes.Structure:
    """The arguments of Scatter."""
    base, rows, active = (inputs[name] for name in ("base", "rows", "active"))
    sizes = (_dtype(base), *base.shape[:2], rows.shape[1], base.shape[2])
    return ScatterArgs(pointer(base), pointer(rows), pointer(active), *sizes, pointer(out))


def attention_args(inputs: Mapping[str, Any], attributes: Mapping[str, Any], out: Any) -> ctypes.Structure:
    """The arguments of Attention. Without dk and dv the strides are left to the library."""
    names = ("q", "k", "v", "k_base", "v_base")
    arrays = {name: inputs[name] for name in names}
    q, heads, wide = arrays["q"], attributes["heads"], attributes.get("dk", 0) > 0
    size = (2 if _dtype(q) else 4) if wide else 0
    starts = [
        None if array is None else (pointer(array) or 0) + size * attributes.get(f"{name}_offset", 0)
        for name, array in arrays.items()
    ]
    strides = [array.shape[2] if wide and array is not None else 0 for array in arrays.values()]
    return AttentionArgs(
        *starts, pointer(inputs["active"]), _dtype(q), *q.shape[:2], arrays["k_base"].shape[1], heads,
        attributes.get("dk") or q.shape[2] // heads, attention_outputs(inputs, attributes) // heads,
        *strides, attributes.get("scale", 0.0), pointer(out),
    )  # fmt: skip


def attention_outputs(inputs: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
    """The number of channels that Attention gives."""
    return attributes["heads"] * attributes.get("dv", 0) or inputs["v_base"].shape[2]


class Kernels:
    """A loaded library. Raises KernelError where a call fails."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.sige_status_string.restype = ctypes.c_char_p
        if self.library.sige_version() != API_VERSION:
            raise KernelError(-1, f"{path} has API version {self.library.sige_version()}, not {API_VERSION}.")

    def check(self, status: int) -> None:
        """Raises KernelError unless `status` is SIGE_OK."""
        if status:
            raise KernelError(status, self.library.sige_status_string(status).decode())

    def size(self, name: str, args: ctypes.Structure, backend: int) -> int:
        """What a `..._size` call answers, in bytes."""
        size = ctypes.c_size_t()
        self.check(getattr(self.library, name)(ctypes.byref(args), _INT(backend), ctypes.byref(size)))
        return size.value

    def pack(self, args: ctypes.Structure, allocate: Callable[[int], Any], backend: int = CPU) -> Any:
        """The packed weight of a Conv, in memory from `allocate` (bytes); None where nothing is to pack."""
        size = self.size("sige_conv_packed_size", args, backend)
        if not size:
            return None
        packed = allocate(size)
        self.check(self.library.sige_conv_pack(ctypes.byref(args), _INT(backend), _POINTER(pointer(packed))))
        return packed

    def run(self, op: str, args: ctypes.Structure, execution: ctypes.Structure) -> None:
        """Calls sige_<op>."""
        self.check(getattr(self.library, f"sige_{op}")(ctypes.byref(args), ctypes.byref(execution)))
