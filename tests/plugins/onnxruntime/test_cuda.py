"""Every op in ONNX Runtime's CUDA provider; needs a GPU, and SIGE_NATIVE_LIBRARY built with SIGE_CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from ops.helpers import Window, assert_close, random, two_sources

from sige_deploy import native
from sige_deploy.ops.attention import attention
from sige_deploy.ops.conv import conv
from sige_deploy.ops.gather import gather
from sige_deploy.ops.scatter import scatter

from ..library import CUDA
from .sessions import run

PROVIDER = "CUDAExecutionProvider"
ACTIVE = np.arange(0, 400, 2, dtype=np.int32)
HALO, TABLE = Window(20, 20).tables(ACTIVE, range(400))


@pytest.fixture
def cuda(library: Path) -> Path:
    """The library, where it and the engine have CUDA."""
    kernels = ctypes.CDLL(str(library.with_name(native.NAME.replace("onnxruntime", "kernels"))))
    if PROVIDER not in onnxruntime.get_available_providers() or kernels.sige_has_backend(CUDA):
        pytest.skip("needs onnxruntime-gpu, and SIGE_NATIVE_LIBRARY with the CUDA backend")
    return library


def arrays(dtype: type, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: random(seed, dtype, *shape) for seed, (name, shape) in enumerate(shapes.items())}


def attended(dtype: type) -> dict[str, np.ndarray]:
    fresh, pixels = (2, ACTIVE.size, 128), (2, 400, 128)
    return arrays(dtype, q=fresh, k=fresh, v=fresh, k_base=pixels, v_base=pixels) | {"active": ACTIVE}


def neighbours(dtype: type) -> dict[str, np.ndarray]:
    return arrays(dtype, rows=(2, ACTIVE.size, 36), base=(2, 400, 36)) | {"halo": HALO, "table": TABLE}


def neighbours_weighed(dtype: type) -> dict[str, np.ndarray]:
    inputs = arrays(dtype, weight=(9, 36, 40), bias=(40,), shift=(2, 1, 36), embedding=(1, 1, 40))
    inputs["weight"] = (inputs["weight"] / 18).astype(dtype)
    return neighbours(dtype) | inputs


def rows_weighed(dtype: type) -> dict[str, np.ndarray]:
    """The inputs that are left out lie in front of, and between, others."""
    own = {
        "rows": (2, 200, 128),
        "residual": (2, 200, 40),
        "multiplier": (2, 200, 40),
        "weight": (1, 128, 40),
    }
    inputs = arrays(dtype, **own)
    return inputs | {"weight": (inputs["weight"] / 11).astype(dtype)}


def rows_gated(dtype: type) -> dict[str, np.ndarray]:
    inputs = arrays(dtype, rows=(2, 200, 128), residual=(2, 200, 40), weight=(1, 128, 80), bias=(80,))
    return inputs | {"weight": (inputs["weight"] / 11).astype(dtype)}


def two_neighbours_weighed(dtype: type) -> dict[str, np.ndarray]:
    return two_sources(neighbours_weighed(dtype), 12)


def two_rows_weighed(dtype: type) -> dict[str, np.ndarray]:
    return two_sources(rows_weighed(dtype), 64)


def two_rows_scaled(dtype: type) -> dict[str, np.ndarray]:
    return two_sources(rows_scaled(dtype), 1)


def rows_scaled(dtype: type) -> dict[str, np.ndarray]:
    return arrays(dtype, rows=(2, 200, 3), scale=(2, 1, 3), shift=(1, 1, 3))


def scattered(dtype: type) -> dict[str, np.ndarray]:
    return arrays(dtype, base=(2, 400, 36), rows=(2, ACTIVE.size, 36)) | {"active": ACTIVE}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        (gather, neighbours, {"activation": "silu"}),
        (gather, rows_scaled, {"activation": "relu"}),
        (gather, two_rows_scaled, {"activation": "relu"}),
        (conv, neighbours_weighed, {"activation_in": "silu"}),
        (conv, rows_weighed, {"activation_out": "leaky_relu"}),
        (conv, two_neighbours_weighed, {"activation_in": "silu"}),
        (conv, two_rows_weighed, {"activation_out": "relu"}),
        (conv, rows_weighed, {"norm_epsilon": 1e-5}),
        (conv, rows_gated, {"norm_epsilon": 1e-5, "gate": "gelu"}),
        (scatter, scattered, {}),
        (attention, attended, {"heads": 2}),
    ],
)
def test_cuda_provider(
    cuda: Path,
    op: Callable[..., np.ndarray],
    inputs: Callable[[type], dict[str, np.ndarray]],
    attributes: dict[str, Any],
    dtype: type,
) -> None:
    given = inputs(dtype)
    absent = {"base": None, "halo": None, "table": None} if op is conv and "table" not in given else {}
    expected = op(**absent, **given, **attributes)
    assert_close(run(cuda, op.__name__.capitalize(), given, attributes, provider=PROVIDER), expected)
