"""What a user hands in, checked, and turned into numpy; outputs turned into the kind that came in."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.manifest import InputSpec

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory


class Placed:
    """An input that lies on a device already, as `Device.placed` makes it for calls that share it.

    array: what it holds, which must not change. buffer: of `memory`.
    """

    def __init__(self, array: np.ndarray, memory: Memory, buffer: Buffer) -> None:
        self.array, self.memory, self.buffer = array, memory, buffer
        self.shape, self.dtype = array.shape, array.dtype


def checked(specs: list[InputSpec], given: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs by name, in the order of `specs`, as they were given: numpy arrays, torch tensors or Placed.

    Raises InputError for unknown or missing names and another type, shape or dtype.
    """
    found = {spec.name: given[spec.name] for spec in specs if spec.name in given}
    if len(found) < max(len(given), len(specs)):
        names = [spec.name for spec in specs]
        for name in given:
            if name not in names:
                raise InputError(f"the network has no input '{name}'; its inputs are {_listed(names)}.")
        missing = next(name for name in names if name not in given)
        raise InputError(f"input '{missing}' is missing; the network's inputs are {_listed(names)}.")
    for spec in specs:
        _check(spec, found[spec.name])
    return found


def checked_mask(mask: Any, height: int, width: int) -> Any:
    """The mask as given, a bool numpy array or torch tensor [height, width]; raises InputError for another
    type, shape or dtype."""
    what = f"a bool array of shape [{height}, {width}]"
    if not is_tensor(mask) and not isinstance(mask, np.ndarray):
        raise InputError(f"mask is a {type(mask).__name__}; expected {what}.")
    if dtype_name(mask) != "bool":
        raise InputError(f"mask has dtype {dtype_name(mask)}; expected {what}, e.g. mask > 0.")
    if tuple(mask.shape) != (height, width):
        raise InputError(
            f"mask has shape {list(mask.shape)}; expected {what}, the size of the spatial input."
        )
    return mask


def as_numpy(name: str, value: Any) -> np.ndarray:
    """A C-contiguous numpy array of a value that was checked; no copy of arrays that are so already. Raises
    InputError for tensors without plain values (meta, sparse, quantised)."""
    if isinstance(value, Placed):
        value = value.array
    if not isinstance(value, np.ndarray):
        try:
            value = value.detach().cpu().numpy()
        except (RuntimeError, TypeError) as error:
            raise plain_values(name) from error
    # ascontiguousarray alone would turn a scalar into a vector
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def plain_values(name: str) -> InputError:
    """The error about a tensor that has none."""
    return InputError(f"input '{name}' is a tensor without plain values; pass a dense tensor.")


def dtype_name(value: Any) -> str:
    """ "float32", "bool", ...: numpy's name of an array's or a tensor's dtype."""
    return _name(value.dtype)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def first_tensor(given: Mapping[str, Any]) -> Any:
    """The first torch tensor among the inputs, which says what outputs become; None where there is none."""
    return next((value for value in given.values() if is_tensor(value)), None)


def as_given(outputs: dict[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as torch tensors if any input was one, on the device of the first such input; else as they
    are."""
    tensor = first_tensor(given)
    if tensor is None:
        return dict(outputs)
    torch = sys.modules["torch"]
    return {name: torch.from_numpy(array).to(tensor.device) for name, array in outputs.items()}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two C-contiguous arrays of one shape and dtype hold the same bytes."""
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


@functools.lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _check(spec: InputSpec, value: Any) -> None:
    if not isinstance(value, (np.ndarray, Placed)) and not is_tensor(value):
        raise InputError(
            f"input '{spec.name}' is a {type(value).__name__}; "
            f"expected a numpy array or torch tensor, {_expected(spec)}."
        )
    dtype = dtype_name(value)
    if dtype != spec.dtype:
        raise InputError(
            f"input '{spec.name}' has dtype {dtype}; expected {_expected(spec)}, so convert it first."
        )
    if list(value.shape) != spec.shape:
        raise InputError(f"input '{spec.name}' has shape {list(value.shape)}; expected {_expected(spec)}.")


def _expected(spec: InputSpec) -> str:
    return f"{spec.dtype} of shape {spec.shape}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
