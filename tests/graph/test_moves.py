"""Reshapes and transposes that undo one another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sige_deploy.graph.builder import Builder
from sige_deploy.graph.moves import undone
from sige_deploy.graph.values import Form

BACK = Form((2, 3, 7, 4), (0, 2, 1, 3), None, (2, 7, 12))


def in_heads(builder: Builder, perm: tuple[int, ...] = (0, 2, 1, 3)) -> tuple[ir.Value, ir.Value]:
    """Tokens [2, 7, 12] and the same in heads [2, 3, 7, 4]."""
    tokens = ir.Value(name="k", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((2, 7, 12)))
    split = builder.reshape(tokens, (2, 7, 3, 4))
    split.shape = ir.Shape((2, 7, 3, 4))
    heads = builder.transpose(split, perm)
    heads.shape = ir.Shape(tuple((2, 7, 3, 4)[p] for p in perm))
    return tokens, heads


def test_tokens_split_into_heads_and_back_are_the_tokens() -> None:
    builder = Builder("")
    tokens, heads = in_heads(builder)
    found = undone(heads, BACK)
    assert found is not None and found.producer() is not None
    assert found.producer().inputs[0] is tokens  # type: ignore[union-attr]
    array = np.arange(168).reshape(2, 7, 3, 4)
    np.testing.assert_array_equal(BACK.of_array(array.transpose(0, 2, 1, 3)).reshape(-1), np.arange(168))


@pytest.mark.parametrize("form", [BACK, Form((2, 3, 7, 4), (0, 1, 2, 3), None, (2, 3, 28))])
def test_what_stays_moved_is_not_undone(form: Form) -> None:
    builder = Builder("")
    perm = (0, 2, 1, 3) if form is not BACK else (0, 2, 3, 1)
    _, heads = in_heads(builder, perm)
    if form is BACK:  # keys already transposed for the product: [2, 3, 4, 7]
        form = Form((2, 3, 4, 7), (0, 3, 2, 1), None, (2, 7, 12))
    assert undone(heads, form) is None


def test_a_value_that_something_computes_is_not_looked_behind() -> None:
    builder = Builder("")
    _, heads = in_heads(builder)
    doubled = builder.op("Add", [heads, heads])
    doubled.shape = heads.shape
    assert undone(doubled, BACK) is None
