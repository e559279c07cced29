"""The library of kernels, loaded and checked; structures as in sige/kernels.h and sige/indices.h."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any

from sige_deploy.errors import RuntimeFailure

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Memory

API_VERSION = 7
CPU, CUDA = 0, 1

_SENTENCE = 512  # bytes


def _struct(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Execution = _struct(
    "Execution", backend=c_int32, workspace=c_void_p, workspace_bytes=c_size_t, parallel_for=c_void_p,
    parallel_context=c_void_p, stream=c_void_p, plans=c_void_p,
)  # fmt: skip
CompareArgs = _struct(
    "CompareArgs", given=c_void_p, recorded=c_void_p, mask=c_void_p, element=c_int32, size=c_int32 * 4,
    stride=c_int64 * 4, eps=c_double,
)  # fmt: skip
MoveArgs = _struct(
    "MoveArgs", dense=c_void_p, rows=c_void_p, active=c_void_p, n=c_void_p, y=c_void_p, x=c_void_p,
    c=c_void_p, batch=c_int32, fresh=c_int32, width=c_int32, channels=c_int32, bytes=c_int32,
)  # fmt: skip
CopyArgs = _struct("CopyArgs", source=c_void_p, target=c_void_p, bytes=c_size_t)
Axis = _struct(
    "Axis", index=c_void_p, weight=c_void_p, phase=c_void_p, outputs=c_int32, taps=c_int32, source=c_int32,
    phases=c_int32,
)  # fmt: skip
IndexInput = _struct("IndexInput", height=c_int32, width=c_int32)
IndexLevel = _struct(
    "IndexLevel", height=c_int32, width=c_int32, geometry=c_int32, dilation=c_int32, granularity=c_int32,
    active=c_void_p,
)  # fmt: skip
IndexGeometry = _struct(
    "IndexGeometry", source=c_int32, target=c_int32, y=Axis, x=Axis, halo=c_void_p, table=c_void_p,
    weights=c_void_p,
)  # fmt: skip
Indices = _struct(
    "Indices", input=POINTER(IndexInput), level=POINTER(IndexLevel), geometry=POINTER(IndexGeometry),
    inputs=c_int32, levels=c_int32, geometries=c_int32, dilate=c_int32, threshold=c_double, counts=c_void_p,
    state=c_void_p, state_bytes=c_size_t, plan=c_void_p, plan_copy=c_void_p, plan_bytes=c_size_t,
)  # fmt: skip

_CALLS: dict[str, list[Any]] = {
    "sige_has_backend": [c_int32],
    "sige_check_device": [c_int32, c_char_p, c_size_t],
    "sige_compare": [c_void_p, c_int32, c_void_p, c_void_p],
    "sige_take_rows": [c_void_p, c_int32, c_void_p],
    "sige_put_rows": [c_void_p, c_int32, c_void_p],
    "sige_copy": [c_void_p, c_int32, c_void_p],
    "sige_indices_sizes": [c_void_p, c_void_p, c_void_p],
    "sige_indices_plan": [c_void_p],
    "sige_indices_begin": [c_void_p, c_void_p, c_void_p],
    "sige_indices_list": [c_void_p, c_void_p],
    "sige_indices_finish": [c_void_p, c_void_p, c_void_p],
}


def opened(path: str | os.PathLike[str]) -> ctypes.CDLL:
    """A native library; raises RuntimeFailure where it cannot be loaded."""
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        text = " ".join(str(error).split())
        raise RuntimeFailure(
            f"the native library '{os.fspath(path)}' cannot be loaded ({text}); build it anew or remove it."
        ) from error


class Kernels:
    """A loaded libsige_kernels.

    path: the library's file. Raises RuntimeFailure where it cannot be loaded, is something else, or has
    another API version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self.library = opened(self.path)
            self.library.sige_version.restype = c_int32
            self.library.sige_status_string.restype = c_char_p
            self.library.sige_status_string.argtypes = [c_int32]
            version = int(self.library.sige_version())
        except AttributeError as error:
            raise RuntimeFailure(
                f"'{self.path}' is no library of sige_deploy's kernels; build it anew or remove it."
            ) from error
        if version != API_VERSION:
            raise RuntimeFailure(
                f"the native library '{self.path}' has API version {version}, this release needs "
                f"{API_VERSION}; build it anew or remove it."
            )
        for name, arguments in _CALLS.items():
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, c_int32

    def check(self, status: int) -> None:
        """Raises RuntimeFailure with the status's sentence unless it is SIGE_OK."""
        if status:
            text = self.library.sige_status_string(status).decode()
            raise RuntimeFailure(f"the native kernels failed: {text[:1].lower()}{text[1:]}")

    def has(self, backend: int) -> bool:
        """Whether the library was built with a backend: CPU or CUDA."""
        return self.library.sige_has_backend(backend) == 0

    def check_device(self, index: int) -> None:
        """Raises RuntimeFailure with one sentence unless the kernels can run on the CUDA device `index`: no
        CUDA backend in the library, no driver or too old a one, no such device, or one of an architecture
        that the library was not built for."""
        sentence = ctypes.create_string_buffer(_SENTENCE)
        if self.library.sige_check_device(index, sentence, _SENTENCE):
            raise RuntimeFailure(sentence.value.decode())

    def execution(self, memory: Memory) -> ctypes.Structure:
        """Where calls run that need no workspace: on the memory's stream."""
        return Execution(backend=memory.backend, stream=memory.stream or None)
