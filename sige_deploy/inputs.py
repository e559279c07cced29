"""What a user hands in, checked and turned into numpy; outputs turned into the kind that came in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.manifest import InputSpec


def checked(specs: list[InputSpec], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """C-contiguous numpy arrays of all inputs, by name; arrays that are fine already are not copied.

    Raises InputError for unknown or missing names, another shape or dtype, NaN or infinity.
    """
    names = [spec.name for spec in specs]
    for name in given:
        if name not in names:
            raise InputError(f"the network has no input '{name}'; its inputs are {_listed(names)}.")
    for name in names:
        if name not in given:
            raise InputError(f"input '{name}' is missing; the network's inputs are {_listed(names)}.")
    return {spec.name: _one(spec, given[spec.name]) for spec in specs}


def checked_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """The mask as bool numpy [height, width]; raises InputError for another shape or dtype."""
    what = f"a bool array of shape [{height}, {width}]"
    if not is_tensor(mask) and not isinstance(mask, np.ndarray):
        raise InputError(f"mask is a {type(mask).__name__}; expected {what}.")
    mask = _array("mask", mask)
    if mask.dtype != np.bool_:
        raise InputError(f"mask has dtype {mask.dtype}; expected {what}, e.g. mask > 0.")
    if mask.shape != (height, width):
        raise InputError(
            f"mask has shape {list(mask.shape)}; expected {what}, the size of the spatial input."
        )
    return np.ascontiguousarray(mask)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_given(outputs: dict[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as torch tensors if any input was one, on the device of the first such input; else as "
    "they are."""
    tensor = next((value for value in given.values() if is_tensor(value)), None)
    if tensor is None:
        return dict(outputs)
    torch = sys.modules["torch"]
    return {name: torch.from_numpy(array).to(tensor.device) for name, array in outputs.items()}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two C-contiguous arrays of one shape and dtype hold the same bytes."""
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def _one(spec: InputSpec, value: Any) -> np.ndarray:
    expected = f"{spec.dtype} of shape {spec.shape}"
    if not is_tensor(value) and not isinstance(value, np.ndarray):
        raise InputError(
            f"input '{spec.name}' is a {type(value).__name__}; "
            f"expected a numpy array or torch tensor, {expected}."
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        raise InputError(f"input '{spec.name}' has dtype {dtype}; expected {expected}, so convert it first.")
    if list(value.shape) != spec.shape:
        raise InputError(f"input '{spec.name}' has shape {list(value.shape)}; expected {expected}.")
    value = _array(f"input '{spec.name}'", value)
    # ascontiguousarray alone would turn a scalar into a vector
    value = value if value.flags.c_contiguous else np.ascontiguousarray(value)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(f"input '{spec.name}' holds NaN or infinity; every value must be finite.")
    return value


def _array(name: str, value: Any) -> np.ndarray:
    """A torch tensor's values as numpy; numpy arrays as they are."""
    if isinstance(value, np.ndarray):
        return value
    try:
        return value.detach().cpu().numpy()
    except (RuntimeError, TypeError) as error:  # meta, sparse and quantised tensors
        raise InputError(f"{name} is a tensor without plain values; pass a dense tensor.") from error


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
