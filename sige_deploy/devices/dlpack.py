"""Buffers in the words of DLPack (version 0.x), which ONNX Runtime takes them over by."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from sige_deploy.devices.memory import Buffer, Memory

_CPU, _CUDA = 1, 2  # DLDeviceType
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by numpy's kind
_NAME = b"dltensor"

_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _ManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]


_lent: dict[int, tuple[Any, ...]] = {}  # by address of the managed tensor: what lives until it is given back


@_Deleter
def _give_back(address: int, lent: dict[int, tuple[Any, ...]] = _lent) -> None:
    lent.pop(address, None)


# At the interpreter's end an engine may give back tensors after this module has gone.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_give_back))
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_lent))


class Lent:
    """A buffer for `from_dlpack`; the memory lives until the taker has given the tensor back."""

    def __init__(self, memory: Memory, buffer: Buffer, index: int = 0) -> None:
        """index: the device's, 0 on the host."""
        self._memory, self._buffer, self._index = memory, buffer, index

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CUDA if self._memory.backend else _CPU, self._index)

    def __dlpack__(self, **_: Any) -> Any:
        buffer, dtype = self._buffer, np.dtype(self._buffer.dtype)
        shape = (ctypes.c_int64 * max(len(buffer.shape), 1))(*buffer.shape)
        kind, index = self.__dlpack_device__()
        tensor = _Tensor(
            buffer.pointer, kind, index, len(buffer.shape), _CODES[dtype.kind], dtype.itemsize * 8, 1,
            ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None, 0,
        )  # fmt: skip
        managed = _ManagedTensor(tensor, None, _give_back)
        address = ctypes.addressof(managed)
        _lent[address] = (managed, shape, buffer)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(address, _NAME, None)
