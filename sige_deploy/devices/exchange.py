"""Arrays and tensors of the user into buffers of a memory, and buffers back into what the user works with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sige_deploy.devices.cuda import CudaMemory
from sige_deploy.devices.memory import STAGED, Buffer, Memory, host_array
from sige_deploy.inputs import Placed, as_given, as_numpy, first_tensor, is_tensor, plain_values
from sige_deploy.kernels import Copies
from sige_deploy.masks import resample_mask


class Exchange:
    """To and from one memory. torch tensors on the memory's own GPU are copied there, in the order of torch's
    current stream; everything else goes through host memory, small arrays by the copies' own kernel.

    copies: for as many arrays as there are inputs, and a mask.
    """

    def __init__(self, memory: Memory, copies: Copies) -> None:
        self._memory, self._copies = memory, copies
        self._gpu = memory.index if isinstance(memory, CudaMemory) else None
        self._held: list[Any] = []
        self._placed: dict[int, Placed] = {}  # by the address of the buffer that it was copied to
        self._landings: dict[str, tuple[Buffer, np.ndarray]] = {}

    def here(self, value: Any) -> bool:
        """Whether a value is a torch tensor on the memory's own GPU."""
        return is_tensor(value) and value.is_cuda and value.get_device() == self._gpu

    def take(self, moves: Sequence[tuple[str, Any, Buffer]]) -> None:
        """Copy values that were checked into buffers, each given as (name, value, buffer): inputs, and a mask
        bool [h, w] into uint8. Tensors must live on until the memory is synchronised. Raises InputError
        for those without plain values."""
        here: list[tuple[Buffer, Buffer]] = []
        elsewhere: list[tuple[np.ndarray, Buffer]] = []
        before, self._placed = self._placed, {}
        placed: dict[int, Placed] = {}
        foreign = False  # whether torch's stream writes any of it
        for name, value, target in moves:
            if isinstance(value, Placed) and value.memory is self._memory:
                placed[target.pointer] = value
                if before.get(target.pointer) is not value:
                    here.append((value.buffer, target))
            elif self.here(value):
                foreign = True
                here.append((self._source(name, value, target), target))
            else:
                elsewhere.append((as_numpy(name, value), target))
        for array, target in elsewhere:
            if array.nbytes > STAGED:
                self._memory.upload(array, target)
        small = [(array, target) for array, target in elsewhere if array.nbytes <= STAGED]
        here += [(target.at(self._memory.staged(array)), target) for array, target in small]
        if foreign:
            self._wait()
        if here:
            self._copies.copy(here)
        self._held = [*here, *elsewhere]
        self._placed = placed

    def placed(self, target: Buffer) -> Buffer | None:
        """Where the input that `take` copied into a buffer last lies unchanged; None where it may change."""
        value = self._placed.get(target.pointer)
        return None if value is None else value.buffer

    def put_back(self, moves: Sequence[tuple[Buffer, Buffer]]) -> None:
        """Copy buffers into those that `take` copies into."""
        self._placed = {}
        self._copies.copy(moves)

    def resample(self, mask: Any, into: Sequence[Buffer], threshold: float) -> None:
        """Copy a bool mask [h, w], resampled, into uint8 buffers of other sizes."""
        for buffer in into:
            resampled = resample_mask(as_numpy("mask", mask), (buffer.shape[0], buffer.shape[1]), threshold)
            self._memory.upload(resampled.view(np.uint8), buffer)

    def give(
        self, results: Mapping[str, Buffer], given: Mapping[str, Any], later: Callable[[], None]
    ) -> dict[str, Any]:
        """The buffers' contents after all work before as new arrays: torch tensors on the device of the first
        tensor among `given`, numpy arrays where there is none. later: queues work that is not waited for."""
        memory = self._memory
        tensor = first_tensor(given)
        if tensor is None or not self.here(tensor):
            return as_given(self._fetched(results, later), given)
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

    def _fetched(self, results: Mapping[str, Buffer], later: Callable[[], None]) -> dict[str, np.ndarray]:
        """The buffers' contents as new arrays, by way of memory that the device writes to."""
        memory = self._memory
        for name, buffer in results.items():
            if name not in self._landings:
                landing = memory.landing(buffer)
                self._landings[name] = landing, host_array(landing)
            memory.fetch(buffer, self._landings[name][0])
        memory.mark()
        later()
        memory.reach()
        return {name: self._landings[name][1].copy() for name in results}

    def _source(self, name: str, value: Any, target: Buffer) -> Buffer:
        """Where to copy a tensor of this GPU from."""
        torch = sys.modules["torch"]
        if value.layout != torch.strided or value.is_quantized:
            raise plain_values(name)
        if not value.is_contiguous():
            value = value.detach().contiguous()
        return target.at(value.data_ptr(), value)

    def _wait(self) -> None:
        assert isinstance(self._memory, CudaMemory)
        # What torch.cuda.current_stream makes an object of, which takes many times as long.
        self._memory.wait_for(sys.modules["torch"]._C._cuda_getCurrentRawStream(self._gpu))
