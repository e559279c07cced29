"""The same network dense, the ways a user could run it instead: each is called with the inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sige_deploy.bundle import Bundle

Inputs = Mapping[str, Tensor]


def outputs_of(result: Any) -> list[Tensor]:
    """A module's result, a tensor or several, by name or not, as a list."""
    if isinstance(result, dict):
        return list(result.values())
    return [result] if isinstance(result, Tensor) else list(result)


def channels_last(inputs: Inputs) -> dict[str, Tensor]:
    """Copies of the inputs, images with their channels last in memory."""
    return {
        name: value.clone(memory_format=torch.channels_last) if value.dim() == 4 else value.clone()
        for name, value in inputs.items()
    }


class Compiled:
    """torch.compile(mode="reduce-overhead"): compiled kernels in CUDA graphs."""

    def __init__(self, module: nn.Module) -> None:
        self._run = torch.compile(module, mode="reduce-overhead")

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return outputs_of(self._run(**inputs))


class Graphed:
    """PyTorch's own kernels in one CUDA graph."""

    @torch.no_grad()
    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        self._inputs = channels_last(inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                module(**self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = outputs_of(module(**self._inputs))

    def __call__(self, inputs: Inputs) -> list[Tensor]:
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        self._graph.replay()
        return self._outputs


class Onnx:
    """ONNX Runtime's CUDA provider on the bundle's dense.onnx, outputs on the device; in a CUDA graph where
    all of it runs on the device (`captured`)."""

    def __init__(self, bundle: Bundle, inputs: Inputs) -> None:
        import onnxruntime

        self._inputs = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in inputs.items()
        }
        self._outputs = {
            spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="cuda")
            for spec in bundle.manifest.outputs
        }
        for captured in (True, False):
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            provider = ("CUDAExecutionProvider", {"device_id": "0", "enable_cuda_graph": str(int(captured))})
            try:
                self._session = onnxruntime.InferenceSession(
                    str(bundle.path("dense.onnx")), options, [provider], disabled_optimizers=["Pad_Fusion"]
                )
                self._bind()
                for _ in range(3):
                    self(inputs)
            except Exception as error:  # it says so in many ways
                if not captured:
                    raise
                print(f"ONNX Runtime dense runs without a CUDA graph: {str(error).splitlines()[0][:150]}")
            else:
                self.captured = captured
                return

    def _bind(self) -> None:
        self._binding = self._session.io_binding()
        names = {node.name for node in self._session.get_inputs()}
        for bind, tensors in (
            (self._binding.bind_input, {n: t for n, t in self._inputs.items() if n in names}),
            (self._binding.bind_output, self._outputs),
        ):
            for name, tensor in tensors.items():
                dtype = getattr(np, str(tensor.dtype).removeprefix("torch."))
                bind(name, "cuda", 0, dtype, tuple(tensor.shape), tensor.data_ptr())

    def __call__(self, inputs: Inputs) -> list[Tensor]:
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        torch.cuda.current_stream().synchronize()
        self._session.run_with_iobinding(self._binding)
        return list(self._outputs.values())
