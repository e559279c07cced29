from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sige_deploy.errors import InputError
from sige_deploy.ops.gather import gather

from .helpers import (
    ACTIVATION,
    DTYPES,
    PROFILE,
    Window,
    assert_close,
    gather_inputs,
    model_of,
    optimized_ops,
    random,
    run_function,
    two_sources,
    windows,
)

ROWS_2, BASE_2 = np.zeros((1, 2, 3), np.float32), np.zeros((1, 4, 3), np.float32)


@PROFILE
@given(data=st.data(), dtype=DTYPES, window=windows(), batch=st.integers(1, 2), activation=ACTIVATION)
def test_function_agrees(
    data: st.DataObject, dtype: type, window: Window, batch: int, activation: str
) -> None:
    phases = data.draw(st.sampled_from([1, 1, 2, 4]))
    inputs = gather_inputs(data, window, batch, data.draw(st.integers(1, 3)), phases, dtype)
    attributes = {"activation": activation, "phases": phases}
    if data.draw(st.booleans(), label="numbers"):
        attributes |= {"alpha": 0.25, "pad_value": -1.5}
    assert_close(run_function("Gather", inputs, attributes), gather(**inputs, **attributes))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_plain_copies_bits(dtype: type) -> None:
    window = Window(4, 5)
    active = np.array([0, 7, 8], np.int32)
    halo, table = window.tables(active, active)
    inputs = {
        "rows": random(0, dtype, 2, 3, 4),
        "base": random(1, dtype, 2, 20, 4),
        "halo": halo,
        "table": table,
    }
    result = gather(**inputs, pad_value=-np.inf)
    np.testing.assert_array_equal(run_function("Gather", inputs, {"pad_value": -np.inf}), result)
    assert np.isneginf(result[:, 0, :16]).all()  # row above the image and the pixel left of the corner
    np.testing.assert_array_equal(result[:, :, 16:20], inputs["rows"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_alone_are_copied(dtype: type) -> None:
    rows = random(0, dtype, 2, 3, 4)
    np.testing.assert_array_equal(gather(rows), rows)
    np.testing.assert_array_equal(run_function("Gather", {"rows": rows}), rows)


def test_rows_alone_are_only_transformed(tmp_path: Path) -> None:
    inputs = {name: random(seed, np.float32, 1, 1, 4) for seed, name in enumerate(("rows", "scale", "shift"))}
    model = model_of("Gather", inputs, {"activation": "relu"}, initializers=())
    left = optimized_ops(model, str(tmp_path / "optimized.onnx"))
    assert left == ["Mul", "Add", "Relu"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_two_sources_are_a_concatenation(dtype: type) -> None:
    """Of rows, without a table; of rows and of bases, with one; the affine covers all channels."""
    window = Window(4, 5)
    active = np.array([0, 7, 8], np.int32)
    halo, table = window.tables(active, active)
    whole = {"rows": random(0, dtype, 2, 3, 5), "base": random(1, dtype, 2, 20, 5)}
    around = {"halo": halo, "table": table}
    affine = {"scale": random(2, dtype, 1, 1, 5), "shift": random(3, dtype, 2, 1, 5)}
    for inputs in ({**whole, **around}, {"rows": whole["rows"]}):
        parts = two_sources(inputs, 2)
        np.testing.assert_array_equal(gather(**parts), gather(**inputs))
        np.testing.assert_array_equal(run_function("Gather", parts), gather(**inputs))
        expected = gather(**inputs, **affine, activation="relu")
        np.testing.assert_array_equal(gather(**parts, **affine, activation="relu"), expected)
        assert_close(run_function("Gather", parts | affine, {"activation": "relu"}), expected)


def test_no_source_at_all_is_padding() -> None:
    inputs = {
        "rows": np.zeros((2, 0, 3), np.float32),
        "base": random(1, np.float32, 2, 4, 3),
        "halo": np.zeros(0, np.int32),
        "table": np.full((2, 4), -1, np.int32),
    }
    expected = np.full((2, 2, 12), 7, np.float32)
    np.testing.assert_array_equal(gather(**inputs, pad_value=7.0), expected)
    np.testing.assert_array_equal(run_function("Gather", inputs, {"pad_value": 7.0}), expected)


def test_padding_comes_after_affine_and_activation() -> None:
    inputs = {
        "rows": np.array([[[2.0]]], np.float32),
        "base": np.zeros((1, 1, 1), np.float32),
        "halo": np.zeros(0, np.int32),
        "table": np.array([[-1, 0]], np.int32),
        "scale": np.full((1, 1, 1), 3, np.float32),
        "shift": np.full((1, 1, 1), 1, np.float32),
    }
    expected = [[[0.0, 7.0]]]
    np.testing.assert_array_equal(gather(**inputs, activation="relu"), expected)
    np.testing.assert_array_equal(run_function("Gather", inputs, {"activation": "relu"}), expected)


def test_phases_are_depth_to_space() -> None:
    height, width, factor, channels = 3, 4, 2, 5
    base = random(0, np.float32, 1, height * width, factor**2 * channels)  # channels: phase, then c
    table = [
        [((y // factor) * width + x // factor) * factor**2 + (y % factor) * factor + x % factor]
        for y in range(height * factor)
        for x in range(width * factor)
    ]
    inputs = {
        "rows": base,
        "base": base,
        "halo": np.zeros(0, np.int32),
        "table": np.array(table, np.int32),
    }
    image = base.reshape(height, width, factor**2, channels).transpose(3, 2, 0, 1)
    expected = torch.nn.functional.pixel_shuffle(
        torch.from_numpy(image.reshape(1, -1, height, width).copy()), factor
    )
    rows = expected.numpy()[0].reshape(channels, -1).T[None]
    np.testing.assert_array_equal(gather(**inputs, phases=4), rows)
    np.testing.assert_array_equal(run_function("Gather", inputs, {"phases": 4}), rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": np.array([[3]], np.int32)}, r"table must lie in \[-1, 3\), got 3 to 3"),
        ({"table": np.array([[-2]], np.int32)}, r"table must lie in \[-1, 3\)"),
        ({"table": np.array([[0]], np.int64)}, "table must be int32 of rank 2, got int64"),
        ({"halo": np.array([4], np.int32)}, r"halo must lie in \[0, 4\)"),
        ({"base": np.zeros((1, 4, 3), np.float32)}, r"base must have shape \[1, 4, 2\], got \[1, 4, 3\]"),
        ({"base": np.zeros((1, 4, 2), np.float16)}, "base must be float32 as the rows are, got float16"),
        ({"rows": np.zeros((1, 2, 2))}, "rows must be float32 or float16 of rank 3, got float64"),
        ({"scale": np.zeros((2,), np.float32)}, r"scale must have shape \[1, 1, 2\]"),
        ({"base": None}, "base, halo and table go together: give all of them or none"),
        ({"table": None, "halo": None}, "base, halo and table go together"),
        ({"base": None, "halo": None, "table": None, "phases": 2}, "phases must be 1 without a table, got 2"),
        ({"phases": 3}, "phases must divide the 2 channels, got 3"),
        ({"activation": "swish"}, "no activation 'swish'"),
        ({"rows_2": ROWS_2}, "base_2 is given exactly if rows_2 and base are"),
        ({"base_2": BASE_2}, "base_2 is given exactly if rows_2 and base are"),
        ({"rows_2": ROWS_2, "base_2": BASE_2, "phases": 2}, "phases must be 1 with two sources, got 2"),
        ({"rows_2": ROWS_2, "base_2": BASE_2[:, 1:]}, r"base_2 must have shape \[1, 4, 3\], got \[1, 3, 3\]"),
        ({"rows_2": ROWS_2[:, 1:], "base_2": BASE_2}, r"rows_2 must have shape \[1, 2, 3\], got \[1, 1, 3\]"),
        ({"rows_2": np.float16(ROWS_2), "base_2": BASE_2}, "rows_2 must be float32 as the rows are"),
        ({"rows_2": ROWS_2, "base_2": BASE_2, "base": BASE_2}, r"base must have shape \[1, 4, 2\]"),
    ],
)
def test_mistakes(change: dict, message: str) -> None:
    arguments = {
        "rows": np.zeros((1, 2, 2), np.float32),
        "base": np.zeros((1, 4, 2), np.float32),
        "halo": np.zeros(1, np.int32),
        "table": np.zeros((1, 1), np.int32),
    }
    with pytest.raises(InputError, match=message):
        gather(**(arguments | change))
