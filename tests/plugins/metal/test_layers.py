"""The Swift layers on Linux: compiled in both language modes, then run against the layers in numpy.

`evaluate` runs as it is. What `encode` binds and dispatches goes to the kernels compiled for the CPU, so that
indices, sizes and the order of parameters are those of the Metal sources.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ops.helpers import Window, assert_close, random

from sige_deploy.coreml.context import Context
from sige_deploy.coreml.layers import Layer, parameter_types
from sige_deploy.coreml.numpy_layers import NUMPY
from sige_deploy.ops import SIGNATURES

from . import swift
from .build import HERE, KERNELS, ROOT, build, to_cpp

HALF = np.float16
LIVE, PADDED = 45, 70
ACTIVE = np.arange(0, 2 * LIVE, 2, dtype=np.int32)


@pytest.fixture(scope="module")
def swiftc() -> Path:
    folder = swift.toolchain()
    if folder is None:
        pytest.skip("needs Swift: runtimes/swift/fetch_toolchain build/swift")
    return folder / "swiftc"


@dataclass
class Case:
    """A layer, its tensors and its context. Rows past the live ones are NaN, indices there are far off."""

    layer: Layer
    tensors: list[np.ndarray]
    context: Context
    weights: list[np.ndarray] = field(default_factory=list)


@pytest.mark.parametrize("version", ["5", "6"])
def test_layers_compile(swiftc: Path, version: str, tmp_path: Path) -> None:
    swift.build_stubs(swiftc, tmp_path, build())
    sources = sorted(swift.LAYERS.glob("*.swift"))
    said = swift.compile_swift(swiftc, "-swift-version", version, "-typecheck", "-I", tmp_path, *sources)
    assert not said


def test_layers_agree(swiftc: Path, tmp_path: Path) -> None:
    cases = _cases()
    described = [_describe(case, number, tmp_path) for number, case in enumerate(cases)]
    (tmp_path / "cases.json").write_text(json.dumps(described))
    program = swift.build_program(swiftc, ROOT / "build" / "metal_swift", build())

    run = swift.run_program(swiftc, program, KERNELS, tmp_path)

    assert run.returncode == 0, run.stdout + run.stderr
    for number, case in enumerate(cases):
        expected = NUMPY[case.layer.class_name](case.layer, case.tensors, case.context)
        for way in ("evaluated", "matrices", "plain"):
            actual = np.fromfile(tmp_path / f"{number}.{way}", HALF).reshape(expected.shape)
            assert_close(actual, expected)
    check_source(tmp_path / "kernels.metal")


def check_source(path: Path) -> None:
    """Compiles the kernels' one source, which may include nothing but Metal's own headers."""
    path.write_text(to_cpp(path.read_text()))
    command = ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-I", HERE / "shim", path]
    subprocess.run(command, check=True)


def test_layers_refuse_what_is_not_set(swiftc: Path, tmp_path: Path) -> None:
    case = _cases()[0]
    described = _describe(case, 0, tmp_path) | {"geometries": {}}
    (tmp_path / "cases.json").write_text(json.dumps([described]))
    program = swift.build_program(swiftc, ROOT / "build" / "metal_swift", build())
    run = swift.run_program(swiftc, program, KERNELS, tmp_path)
    assert run.returncode == 1
    assert run.stdout.strip() == "The table of geometry 'g' is not set; set it before the prediction."


def _cases() -> list[Case]:
    affine = {"scale_name": "affine.scale", "shift_name": "affine.shift"}
    addends = ("embedding", "residual", "multiplier")
    return [
        _reading("Conv", 12, 36, bias=True, activation_in="silu", **affine),
        _reading("Conv", 20, 33, second=7, tensors=addends, activation_out="gelu"),
        _reading("Conv", 8, 8, group=8, tensors=addends[1:2], activation_in="leaky_relu", alpha_in=0.2),
        _reading("Conv", 12, 24, group=3, bias=True, constant=True, activation_out="tanh"),
        _reading("Conv", 12, 6, group=2, activation_in="sigmoid"),
        _reading(
            "Conv", 40, 20, second=8, own=True, bias=True, tensors=addends[2:], activation_in="gelu_tanh"
        ),
        _reading("Conv", 40, 33, own=True, bias=True, norm_epsilon=1e-5),
        _reading("Conv", 40, 34, own=True, bias=True, tensors=addends[1:], norm_epsilon=1e-5, gate="gelu"),
        _reading("Conv", 12, 20, gate="sigmoid", activation_in="silu", activation_out="tanh"),
        _reading("Gather", 5, 45, second=2, activation="relu", **affine),
        _reading("Gather", 8, 72, pad_value=1.5),
        _reading("Gather", 8, 36, phases=2, pad_value=-1.0),
        _reading("Gather", 6, 6, own=True, constant=True, activation="gelu"),
        _scatter(),
        _attention(2, 12, 8, overlaid=True),
        _attention(1, 40, 70, overlaid=False),
        _attention(1, 200, 200, overlaid=True, scale=0.05),
        _attention(2, 12, 8, overlaid=True, together=True),
        _attention(3, 40, 20, overlaid=False, together=True),
    ]


def _reading(
    op: str,
    channels: int,
    outputs: int,
    *,
    second: int = 0,
    own: bool = False,
    bias: bool = False,
    constant: bool = False,
    tensors: tuple[str, ...] = (),
    **attributes: Any,
) -> Case:
    """A Gather or Conv. constant: scale and shift are weights."""
    taps, first, phases = 1 if own else 9, channels - second, attributes.get("phases", 1)
    halo, table = Window(16, 16).tables(ACTIVE, ACTIVE)
    table = np.where(table >= LIVE, table + PADDED - LIVE, table).astype(np.int32)
    table = np.where(table < 0, -1, table * phases + np.arange(taps if own else 9) % phases).astype(np.int32)
    weights = {"scale": random(1, HALF, channels), "shift": random(2, HALF, channels)} if constant else {}
    if op == "Conv":
        depth = channels // attributes.get("group", 1)
        columns = 2 * outputs if attributes.get("gate") else outputs
        weight = random(3, HALF, taps * depth * columns) * HALF((taps * depth) ** -0.5)
        weights = {"weight": weight} | ({"bias": random(4, HALF, columns)} if bias else {}) | weights
    shapes = {"rows": first} | ({"rows_2": second} if second else {}) | dict.fromkeys(tensors, outputs)
    given = {
        name: _tensor(seed, width, name == "embedding") for seed, (name, width) in enumerate(shapes.items())
    }
    places = {
        "source": "l", "geometry": "" if own else "g", "taps": taps, "channels_2": second,
        "base": "" if own else "base", "base_2": "base_2" if second and not own else "",
        "scale_name": "", "shift_name": "",
    }  # fmt: skip
    arrays = {
        "base": random(5, HALF, 1, 256, first),
        "affine.scale": random(6, HALF, 1, 1, channels),
        "affine.shift": random(7, HALF, 1, 1, channels),
    } | ({"base_2": random(8, HALF, 1, 256, second)} if second else {})
    context = Context({"l": LIVE}, {"l": _far(ACTIVE)}, {"g": _far(table)}, {"g": halo}, arrays)
    return _case(op, channels, outputs, given, weights, context, **(places | attributes))


def _scatter() -> Case:
    context = Context({"l": LIVE}, {"l": _far(ACTIVE)}, {}, {}, {"base": random(5, HALF, 1, 256, 7)})
    return _case("Scatter", 7, 7, {"rows": _tensor(1, 7)}, {}, context, base="base", pixels=256)


def _attention(
    heads: int, dk: int, dv: int, *, overlaid: bool, scale: float = 0.0, together: bool = False
) -> Case:
    """together: q, k and v are parts of one tensor, and all inputs have channels that are not read."""
    widths = {"q": heads * dk} | ({"k": heads * dk, "v": heads * dv} if overlaid else {})
    pixels = 256 if overlaid else 77
    bases = {"k_base": heads * dk, "v_base": heads * dv}
    told: dict[str, int | float | str] = {
        "k_base": "keys",
        "v_base": "values",
        "heads": heads,
        "scale": scale,
    }
    if together:
        told |= {f"{name}_offset": 3 + sum(list(widths.values())[:i]) for i, name in enumerate(widths)}
        told |= {"dk": dk, "dv": dv, "k_base_offset": 5, "v_base_offset": 16}
        widths = dict.fromkeys(widths, 3 + sum(widths.values()) + 6)
        bases = {"k_base": heads * dk + 8, "v_base": heads * dv + 16}
    given = {
        name: _tensor(0 if together else seed, width) for seed, (name, width) in enumerate(widths.items())
    }
    arrays = {
        "keys": random(8, HALF, 1, pixels, bases["k_base"]),
        "values": random(9, HALF, 1, pixels, bases["v_base"]),
    }
    told |= {f"{name}_channels": width for name, width in bases.items()}
    told |= {f"{name}_channels": widths.get(name, 0) for name in ("k", "v")}
    context = Context({"l": LIVE}, {"l": _far(ACTIVE)}, {}, {}, arrays)
    return _case("Attention", widths["q"], heads * dv, given, {}, context, **told)


def _case(
    op: str,
    channels: int,
    outputs: int,
    given: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    context: Context,
    **told: Any,
) -> Case:
    parameters = {
        **SIGNATURES[op].attributes, "inputs": " ".join(given), "weights": " ".join(weights), "level": "l",
        "rows": PADDED, "channels": channels, "outputs": outputs, "context": 0, **told,
    }  # fmt: skip
    assert parameters.keys() == parameter_types(op).keys()
    return Case(Layer("layer", f"SIGE{op}", parameters, weights), list(given.values()), context)


def _tensor(seed: int, channels: int, single: bool = False) -> np.ndarray:
    tensor = random(seed, HALF, 1, channels, 1, 1 if single else PADDED)
    if not single:
        tensor[..., LIVE:] = np.nan
    return tensor


def _far(indices: np.ndarray) -> np.ndarray:
    return np.concatenate([indices, np.full((PADDED - LIVE, *indices.shape[1:]), 1 << 30, np.int32)])


def _describe(case: Case, number: int, folder: Path) -> dict[str, Any]:
    """What run_layers.swift reads; the second half of the cases has its weights as float32."""

    def write(array: np.ndarray) -> str:
        name = f"{number}.{len(list(folder.glob(f'{number}.*')))}"
        array.tofile(folder / name)
        return name

    context, weights = case.context, case.layer.weights.values()
    return {
        "class": case.layer.class_name,
        "parameters": dict(case.layer.parameters),
        "inputs": [
            {"file": write(tensor), "channels": tensor.shape[1], "rows": tensor.shape[3]}
            for tensor in case.tensors
        ],
        "weights": [write(weight.astype(np.float32) if number % 2 else weight) for weight in weights],
        "levels": {
            level: {"active": context.active[level].tolist(), "live": count}
            for level, count in context.counts.items()
        },
        "geometries": {
            name: {"table": table.ravel().tolist(), "halo": context.halos[name].tolist()}
            for name, table in context.tables.items()
        },
        "arrays": {name: write(array) for name, array in context.arrays.items()},
    }
