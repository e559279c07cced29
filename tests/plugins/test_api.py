from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from ops.helpers import random, two_sources

from . import cpu, library
from .library import CPU, KernelError, Kernels

INVALID, UNSUPPORTED, NO_BACKEND, WORKSPACE = 1, 2, 3, 4


def conv_case(dtype: type = np.float32) -> dict[str, Any]:
    return {
        "rows": random(1, dtype, 1, 2, 4),
        "base": random(2, dtype, 1, 6, 4),
        "halo": np.array([3], np.int32),
        "table": np.array([[0, 1, 2], [-1, 0, 1]], np.int32),
        "weight": random(3, dtype, 3, 4, 5),
    }


def status_of(
    kernels: Kernels, args: ctypes.Structure, workspace: np.ndarray | None = None, op: str = "conv"
) -> int:
    with pytest.raises(KernelError) as caught:
        kernels.run(op, args, cpu.execution(kernels, workspace))
    return caught.value.status


def test_every_status_has_a_sentence(kernels: Kernels) -> None:
    sentences = [kernels.library.sige_status_string(status).decode() for status in range(9)]
    assert len(set(sentences)) == 9
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("field", "value"),
    [("outputs", 0), ("group", 3), ("activation", 8), ("activation", -1), ("weight", None), ("out", None)],
)
def test_invalid_arguments(kernels: Kernels, field: str, value: int | None) -> None:
    args = library.conv_args(conv_case(), {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    setattr(args, field, value)
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch", 0), ("fresh", -1), ("pixels", 0), ("taps", 0), ("dtype", 2), ("base", None), ("table", None)],
)
def test_invalid_sources(kernels: Kernels, field: str, value: int | None) -> None:
    args = library.conv_args(conv_case(), {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    setattr(args.source, field, value)
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [("channels_2", 4), ("channels_2", 0), ("channels_2", -1), ("rows_2", None), ("base_2", None)],
)
def test_invalid_second_sources(kernels: Kernels, field: str, value: int | None) -> None:
    inputs = two_sources(conv_case(), 1)
    assert np.isfinite(cpu.conv(kernels, inputs)).all()
    args = library.conv_args(inputs, {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    setattr(args.source, field, value)
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


@pytest.mark.parametrize(
    ("fields", "inputs"),
    [
        ({"norm_epsilon": 1e-5}, conv_case()),
        ({"norm_epsilon": -1e-5}, {}),
        ({"norm_epsilon": float("nan")}, {}),
        ({"norm_epsilon": 1e-5}, {"scale": random(4, np.float32, 1, 1, 4)}),
        ({"norm_epsilon": 1e-5}, {"shift": random(4, np.float32, 1, 1, 4)}),
        ({"norm_epsilon": 1e-5}, {"rows_2": random(4, np.float32, 1, 2, 1)}),
        ({"norm_epsilon": 1e-5, "group": 2}, {}),
        ({"gated": 2}, {}),
        ({"gated": 1, "gate": 2}, {}),  # leaky_relu
        ({"gated": 1, "gate": 8}, {}),
        ({"gated": 1, "group": 2}, {}),
        ({"gated": 1}, {"embedding": random(4, np.float32, 1, 1, 6)}),
    ],
)
def test_invalid_norms_and_gates(
    kernels: Kernels, fields: dict[str, float], inputs: dict[str, np.ndarray]
) -> None:
    plain = {"rows": random(1, np.float32, 1, 2, 4), "weight": random(2, np.float32, 1, 4, 6)}
    args = library.conv_args(plain | inputs, {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 6))
    for field, value in fields.items():
        setattr(args, field, value)
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


def test_a_norm_needs_no_activation_of_the_source(kernels: Kernels) -> None:
    inputs = {"rows": random(1, np.float32, 1, 2, 4), "weight": random(2, np.float32, 1, 4, 6)}
    out = cpu.poisoned(np.dtype(np.float32), 1, 2, 6)
    args = library.conv_args(inputs, {"norm_epsilon": 1e-5, "activation_in": "relu"}, out)
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


@pytest.mark.parametrize(("field", "value"), [("taps", 2), ("targets", 1), ("pixels", 1), ("halo_count", 1)])
def test_invalid_sources_without_a_table(kernels: Kernels, field: str, value: int) -> None:
    inputs = {"rows": random(1, np.float32, 1, 2, 4), "weight": random(2, np.float32, 1, 4, 5)}
    args = library.conv_args(inputs, {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    setattr(args.source, field, value)
    assert status_of(kernels, args) == INVALID


def test_phases_need_a_table(kernels: Kernels) -> None:
    rows = {"rows": random(1, np.float32, 1, 2, 4)}
    args = library.gather_args(rows, {"phases": 2}, cpu.poisoned(np.dtype(np.float32), 1, 2, 4))
    assert status_of(kernels, args, op="gather") == INVALID


def test_phases_need_one_source(kernels: Kernels) -> None:
    inputs = two_sources(conv_case(), 2)
    args = library.gather_args(inputs, {"phases": 2}, cpu.poisoned(np.dtype(np.float32), 1, 2, 6))
    assert status_of(kernels, args, cpu.allocate(4096), op="gather") == INVALID


@pytest.mark.parametrize(
    ("field", "value"), [("q_stride", 7), ("k_stride", 7), ("v_base_stride", -1), ("heads", 0), ("dv", 9)]
)
def test_invalid_attention(kernels: Kernels, field: str, value: int) -> None:
    inputs: dict[str, Any] = dict.fromkeys(("k", "v", "active"))
    inputs |= {name: random(1, np.float32, 1, 3, 9) for name in ("q", "k_base", "v_base")}
    attributes = {"heads": 2, "dk": 4, "dv": 4, "q_offset": 1}
    assert np.isfinite(cpu.attention(kernels, inputs, **attributes)).all()
    args = library.attention_args(inputs, attributes, cpu.poisoned(np.dtype(np.float32), 1, 3, 8))
    setattr(args, field, value)
    assert status_of(kernels, args, cpu.allocate(4096), op="attention") == INVALID


def test_batch_of_an_addend(kernels: Kernels) -> None:
    inputs = conv_case() | {"embedding": random(4, np.float32, 2, 1, 5)}
    args = library.conv_args(inputs, {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    assert status_of(kernels, args, cpu.allocate(4096)) == INVALID


def test_half_precision_is_refused(kernels: Kernels) -> None:
    args = library.conv_args(conv_case(np.float16), {}, cpu.poisoned(np.dtype(np.float16), 1, 2, 5))
    assert status_of(kernels, args, cpu.allocate(4096)) == UNSUPPORTED


def test_workspace(kernels: Kernels) -> None:
    args = library.conv_args(conv_case(), {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    needed = kernels.size("sige_conv_workspace_size", args, CPU)
    assert status_of(kernels, args) == WORKSPACE
    assert status_of(kernels, args, cpu.allocate(needed - 1)) == WORKSPACE
    assert status_of(kernels, args, cpu.allocate(needed + 1)[1:]) == INVALID


def test_unknown_backend(kernels: Kernels) -> None:
    args = library.conv_args(conv_case(), {}, cpu.poisoned(np.dtype(np.float32), 1, 2, 5))
    execution = cpu.execution(kernels, cpu.allocate(4096))
    execution.backend = 7
    with pytest.raises(KernelError) as caught:
        kernels.run("conv", args, execution)
    assert caught.value.status == NO_BACKEND


def test_nothing_to_do_needs_nothing(kernels: Kernels) -> None:
    inputs = conv_case() | {"table": np.empty((0, 3), np.int32)}
    kernels.run("conv", library.conv_args(inputs, {}, None), cpu.execution(kernels))
