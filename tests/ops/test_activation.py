from __future__ import annotations

import numpy as np
import pytest
import torch

from sige_deploy.errors import InputError
from sige_deploy.ops import ACTIVATIONS
from sige_deploy.ops.activation import activation

TORCH = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, 0.2),
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_torch(name: str, dtype: type) -> None:
    x = np.linspace(-60, 60, 2001).astype(dtype)
    result = activation(name, x, alpha=0.2)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, TORCH[name](torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_empty() -> None:
    for name in ACTIVATIONS:
        assert activation(name, np.zeros((2, 0, 3), np.float32)).shape == (2, 0, 3)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="no activation 'swish'; expected one of identity, relu"):
        activation("swish", np.zeros(1, np.float32))
