from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sige_deploy.errors import InputError
from sige_deploy.ops.attention import attention

from .helpers import (
    DTYPES,
    PROFILE,
    assert_close,
    attention_inputs,
    model_of,
    optimized_ops,
    pixels,
    random,
    run_function,
    widened,
)


@PROFILE
@given(
    data=st.data(),
    dtype=DTYPES,
    batch=st.integers(1, 3),
    count=st.integers(1, 12),
    heads=st.integers(1, 4),
    dk=st.integers(1, 5),
    dv=st.integers(1, 5),
    scale=st.sampled_from([None, 0.0, 0.5]),
    crossing=st.booleans(),
    wide=st.sampled_from(["no", "apart", "together"]),
)
def test_function_agrees(
    data: st.DataObject,
    dtype: type,
    batch: int,
    count: int,
    heads: int,
    dk: int,
    dv: int,
    scale: float | None,
    crossing: bool,
    wide: str,
) -> None:
    active = data.draw(pixels(count))
    inputs = attention_inputs(dtype, batch, count, active, heads * dk, heads * dv)
    if crossing:
        inputs |= dict.fromkeys(("k", "v", "active"))
    attributes = {"heads": heads} | ({} if scale is None else {"scale": scale})
    expected = attention(**inputs, **attributes)
    if wide != "no":
        inputs, parts = widened(inputs, heads, together=wide == "together")
        attributes |= parts
        np.testing.assert_array_equal(attention(**inputs, **attributes), expected)
    assert_close(run_function("Attention", inputs, attributes), expected)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_is_torch_attention_over_the_edited_image(step: int, scale: float) -> None:
    batch, count, heads, width = 2, 10, 2, 8
    active = np.arange(0, count, step, dtype=np.int32)
    inputs = attention_inputs(np.float32, batch, count, active, heads * width, heads * width)
    t = {name: torch.from_numpy(value) for name, value in inputs.items()}
    pixel = t.pop("active").long()
    keys, values = t["k_base"].clone(), t["v_base"].clone()
    keys[:, pixel], values[:, pixel] = t["k"], t["v"]
    query, key, value = (x.unflatten(2, (heads, width)).transpose(1, 2) for x in (t["q"], keys, values))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale or None)
    expected_rows = expected.transpose(1, 2).flatten(2).numpy()
    attributes = {"heads": heads, "scale": scale}
    assert_close(attention(**inputs, **attributes), expected_rows)
    assert_close(run_function("Attention", inputs, attributes), expected_rows)


def test_without_fresh_keys_it_is_torch_attention_to_the_base() -> None:
    q, k_base, v_base = (random(i, np.float32, 2, n, 16) for i, n in enumerate((5, 7, 7)))
    query, key, value = (
        torch.from_numpy(x).unflatten(2, (2, 8)).transpose(1, 2) for x in (q, k_base, v_base)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    got = attention(q, None, None, k_base, v_base, heads=2)
    assert_close(got, expected.transpose(1, 2).flatten(2).numpy())


def test_large_scores_stay_finite() -> None:
    active = np.arange(4, dtype=np.int32)
    for dtype, size in ((np.float32, 1000), (np.float16, 60)):
        inputs = attention_inputs(dtype, 1, 16, active, 16, 8)
        inputs |= {name: inputs[name] * dtype(size) for name in ("q", "k", "k_base")}
        result = run_function("Attention", inputs, {"heads": 1})
        assert np.isfinite(result).all()
        assert np.isfinite(attention(**inputs, heads=1)).all()


def test_keys_are_not_transposed_by_copy(tmp_path: Path) -> None:
    """ONNX Runtime takes the keys' transpose into the product, and folds every shape that is static."""
    inputs = attention_inputs(np.float32, 1, 16, np.arange(4, dtype=np.int32), 16, 16)
    left = optimized_ops(model_of("Attention", inputs, {"heads": 2}), str(tmp_path / "optimized.onnx"))
    assert left.count("FusedMatMul") + left.count("MatMul") == 2
    assert "FusedMatMul" in left
    assert left.count("Transpose") == 4  # heads of q, k, v, and back
    assert left.count("ScatterND") == 2
    assert len(left) <= 28


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads must divide the 4 channels of q, got 3"),
        ({"k": np.zeros((1, 1, 2), np.float32)}, r"k must have the shape of q \[1, 1, 4\]"),
        ({"v_base": np.zeros((1, 4, 4), np.float32)}, "must cover the same pixels"),
        ({"k_base": np.zeros((1, 3, 6), np.float32)}, "k_base its channels"),
        ({"active": None}, "k, v and active must be given together"),
        ({"k_base": np.zeros((1, 3, 4), np.float16)}, "k_base must be float32 as q is"),
        ({"v": np.zeros((1, 1, 6), np.float32)}, "rows must have shape"),
        ({"dk": 2}, "dk and dv must both be positive or both be 0, got 2 and 0"),
        ({"dk": -1, "dv": -1}, "dk and dv must both be positive or both be 0, got -1 and -1"),
        ({"dk": 1, "dv": 1, "v_offset": -1}, "offsets must be at least 0, got -1"),
        ({"k_base_offset": 2}, "offsets need dk and dv, got an offset of 2 without them"),
        (
            {"dk": 1, "dv": 1, "v_offset": 3},
            "v must have channels 3 to 5, for 2 heads, got 4 channels",
        ),
        ({"dk": 1, "dv": 1, "k": np.zeros((1, 2, 4), np.float32)}, "k must have the batch and rows of q"),
    ],
)
def test_mistakes(change: dict, message: str) -> None:
    arguments = {
        "q": np.zeros((1, 1, 4), np.float32),
        "k": np.zeros((1, 1, 4), np.float32),
        "v": np.zeros((1, 1, 4), np.float32),
        "k_base": np.zeros((1, 3, 4), np.float32),
        "v_base": np.zeros((1, 3, 4), np.float32),
        "active": np.zeros(1, np.int32),
        "heads": 2,
    }
    with pytest.raises(InputError, match=message):
        attention(**(arguments | change))
