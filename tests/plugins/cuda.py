"""Runs an op of the CUDA backend on torch tensors named as in docs/ops.md."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch

from . import library
from .library import CUDA, Execution, Kernels

Inputs = Mapping[str, torch.Tensor]


class Device:
    """The current CUDA device: plans, and a call of an op that can be repeated or captured."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.plans = ctypes.c_void_p()
        kernels.check(kernels.library.sige_plans_create(ctypes.byref(self.plans)))

    def close(self) -> None:
        """Gives the plans back."""
        self.kernels.library.sige_plans_destroy(self.plans)

    def prepare(self, args: ctypes.Structure, candidates: int = 1) -> None:
        """Makes the plan of one Conv."""
        prepare = self.kernels.library.sige_plans_prepare
        self.kernels.check(prepare(self.plans, ctypes.byref(args), ctypes.c_int32(candidates)))

    def call(
        self, op: str, args: ctypes.Structure, workspace: torch.Tensor | None = None
    ) -> Callable[[], None]:
        """A function that runs the op on the current stream; without a workspace it gets one, poisoned."""
        if workspace is None and op != "scatter":
            size = self.kernels.size(f"sige_{op}_workspace_size", args, CUDA)
            workspace = torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
        execution = Execution(backend=CUDA, plans=self.plans)
        if workspace is not None and workspace.numel():
            execution.workspace, execution.workspace_bytes = workspace.data_ptr(), workspace.numel()

        def run() -> None:
            assert workspace is None or workspace.is_cuda  # keeps the memory alive
            execution.stream = torch.cuda.current_stream().cuda_stream
            self.kernels.run(op, args, execution)

        return run


def args_of(op: str, inputs: Inputs, attributes: Mapping[str, Any], out: torch.Tensor) -> ctypes.Structure:
    """The arguments of any op."""
    if op == "scatter":
        return library.scatter_args(inputs, out)
    makers = {
        "gather": library.gather_args,
        "conv": library.conv_args,
        "attention": library.attention_args,
    }
    return makers[op](inputs, attributes, out)


def shape_of(op: str, inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of an op's output."""
    if op == "scatter":
        return tuple(inputs["base"].shape)
    if op == "attention":
        return (*inputs["q"].shape[:2], library.attention_outputs(inputs, attributes))
    batch, fresh, _ = inputs["rows"].shape
    channels = library.source_channels(inputs)
    targets, taps = inputs["table"].shape if "table" in inputs else (fresh, 1)
    if op == "conv":
        return batch, targets, library.conv_outputs(inputs, attributes)
    return batch, targets, taps * channels // attributes.get("phases", 1)
