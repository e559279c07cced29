from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

import sige_deploy as sige
from sige_deploy.exporters.weights import INLINE_BYTES, WEIGHTS, write_weights


def model_of(**arrays: np.ndarray) -> ir.Model:
    values = [ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in arrays.items()]
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 23}, name="net")
    return ir.Model(graph, ir_version=11)


def test_large_tensors_move_and_small_ones_stay(tmp_path: Path) -> None:
    large = np.arange(INLINE_BYTES, dtype=np.float32)
    model = model_of(large=large, small=np.zeros(3, np.float32))
    assert write_weights([model], tmp_path) == large.nbytes
    values = model.graph.initializers
    assert isinstance(values["large"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(values["large"].const_value.numpy(), large)
    assert not isinstance(values["small"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(load_file(tmp_path / WEIGHTS)["large"], large)


def test_models_share_tensors_of_one_name(tmp_path: Path) -> None:
    array = np.ones((32, 32), np.float16)
    first, second = model_of(w=array), model_of(w=array, v=array + 1)
    assert write_weights([first, second], tmp_path) == 2 * array.nbytes
    a, b = (m.graph.initializers["w"].const_value for m in (first, second))
    assert isinstance(a, ir.ExternalTensor)
    assert isinstance(b, ir.ExternalTensor)
    assert (a.offset, a.length) == (b.offset, b.length)


def test_types_that_bundles_cannot_hold(tmp_path: Path) -> None:
    import ml_dtypes

    with pytest.raises(sige.ExportError, match="BFLOAT16"):
        write_weights([model_of(w=np.ones(2048, ml_dtypes.bfloat16))], tmp_path)
