"""Arrays and tensors of the user into buffers of a memory, and buffers back into what the user works with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sige_deploy.devices.cuda import CudaMemory
from sige_deploy.devices.memory import Buffer, Memory
from sige_deploy.inputs import as_numpy, is_tensor, plain_values
from sige_deploy.kernels import Copies
from sige_deploy.masks import resample_mask


class Exchange:
    """To and from one memory. torch tensors on the memory's own GPU are copied there, in the order of torch's
    current stream; everything else goes through host memory.

    copies: for as many arrays as there are inputs.
    """

    def __init__(self, memory: Memory, copies: Copies) -> None:
        self._memory, self._copies = memory, copies
        self._gpu = memory.index if isinstance(memory, CudaMemory) else None
        self._held: list[Any] = []

    def take(self, given: Mapping[str, Any], into: Mapping[str, Buffer]) -> None:
        """Copy inputs, checked as `inputs.checked` does, into the buffers of their names. The values must
        live on until the memory is synchronised. Raises InputError for tensors without plain values."""
        self._put([(name, value, into[name]) for name, value in given.items()])

    def take_mask(self, mask: Any, into: Sequence[Buffer], threshold: float) -> None:
        """Copy a bool mask [h, w] into uint8 buffers: as it is into the first, which has its size, resampled
        into the others."""
        self._put([("mask", mask, into[0].view(into[0].shape, np.bool_))])
        for buffer in into[1:]:
            resampled = resample_mask(as_numpy("mask", mask), (buffer.shape[0], buffer.shape[1]), threshold)
            self._memory.upload(resampled.view(np.uint8), buffer)

    def give(
        self, results: Mapping[str, Buffer], given: Mapping[str, Any], later: Callable[[], None]
    ) -> dict[str, Any]:
        """The buffers' contents after all work before as new arrays: torch tensors on the device of the first
        tensor among `given`, numpy arrays where there is none. later: queues work that is not waited for."""
        memory = self._memory
        tensor = next((value for value in given.values() if is_tensor(value)), None)
        if tensor is None or not self._here(tensor):
            arrays = {name: memory.download(buffer) for name, buffer in results.items()}
            later()
            if tensor is None:
                return arrays
            torch = sys.modules["torch"]
            return {name: torch.from_numpy(array).to(tensor.device) for name, array in arrays.items()}
        torch = sys.modules["torch"]
        outputs = {
            name: torch.empty(buffer.shape, dtype=getattr(torch, buffer.dtype.name), device=tensor.device)
            for name, buffer in results.items()
        }
        self._wait()  # torch may have given us memory that its stream is not done with
        for name, buffer in results.items():
            memory.copy(buffer, buffer.at(outputs[name].data_ptr()))
        memory.mark()
        later()
        memory.reach()
        return outputs

    def _put(self, moves: Sequence[tuple[str, Any, Buffer]]) -> None:
        sources = [self._source(name, value, buffer) for name, value, buffer in moves]
        here: list[tuple[Buffer, Buffer]] = []
        for source, (_, _, buffer) in zip(sources, moves):
            if isinstance(source, Buffer):
                here.append((source, buffer))
            else:
                self._memory.upload(source, buffer)
        if here:
            self._wait()
            self._copies.copy(here)
        self._held = sources

    def _source(self, name: str, value: Any, target: Buffer) -> Buffer | np.ndarray:
        """Where to copy from: a tensor's own memory, or an array on the host."""
        if not self._here(value):
            return as_numpy(name, value)
        torch = sys.modules["torch"]
        if value.layout != torch.strided or value.is_quantized:
            raise plain_values(name)
        if not value.is_contiguous():
            value = value.detach().contiguous()
        return target.at(value.data_ptr(), value)

    def _here(self, value: Any) -> bool:
        return is_tensor(value) and value.is_cuda and value.get_device() == self._gpu

    def _wait(self) -> None:
        assert isinstance(self._memory, CudaMemory)
        stream = sys.modules["torch"].cuda.current_stream(self._gpu)
        self._memory.wait_for(stream.cuda_stream)
