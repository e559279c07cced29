"""The custom layers: their classes, parameters and weights, and how a layer is read out of a model.

A tensor of rows [1, P, C] is [1, C, 1, P] in Core ML: an image one pixel high, P wide, of ceil(C / 4) slices.
What is indexed (bases, recorded affines, tables, halos, active pixels) is no tensor: a layer finds it by name
in the context that its parameter `context` numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sige_deploy.ops import SIGNATURES

#: Custom layer class of each op.
CLASSES: Final = {op: f"SIGE{op}" for op in SIGNATURES}
OPS: Final = {name: op for op, name in CLASSES.items()}

#: Inputs of the ops that are tensors of a model, in the order of the signatures.
TENSORS: Final = ("rows", "rows_2", "embedding", "residual", "multiplier", "q", "k", "v")
#: Inputs of the ops that are weights of a layer when they are constants, in the order of a layer's weights.
WEIGHTS: Final = ("weight", "bias", "scale", "shift")

_COMMON: Final = {
    "inputs": str,  # names of the tensors, with spaces between
    "weights": str,  # names of the weights, with spaces between
    "level": str,  # of the rows that come out, for Scatter of those that go in
    "rows": int,  # of that level, padded to the bucket
    "channels": int,  # of the source
    "outputs": int,  # channels that come out
    "context": int,
}
_SOURCE: Final = {
    "source": str,  # level of the rows that go in
    "geometry": str,  # of table and halo; empty: every target reads its own row
    "taps": int,
    "channels_2": int,  # of these, how many rows_2 has; 0 without it
    "base": str,
    "base_2": str,
    "scale_name": str,
    "shift_name": str,
}
_PLACES: Final[dict[str, dict[str, type]]] = {
    "Gather": _SOURCE,
    "Conv": _SOURCE,
    "Scatter": {"base": str, "pixels": int},
    "Attention": {
        "k_base": str,
        "v_base": str,
        "k_channels": int,  # of k; 0 without it
        "v_channels": int,
        "k_base_channels": int,
        "v_base_channels": int,
    },
}


def parameter_types(op: str) -> dict[str, type]:
    """str, int or float for each parameter of an op's layer: its attributes as docs/ops.md has them, and what
    places it in the model."""
    attributes = {
        name: default if isinstance(default, type) else type(default)
        for name, default in SIGNATURES[op].attributes.items()
    }
    return {**_COMMON, **_PLACES[op], **attributes}


@dataclass(frozen=True)
class Layer:
    """A custom layer as an implementation sees it. weights: 1-D, float16, by name."""

    name: str
    class_name: str
    parameters: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]

    @property
    def op(self) -> str:
        return OPS[self.class_name]

    @property
    def inputs(self) -> list[str]:
        """Names of the input tensors, in order."""
        return str(self.parameters["inputs"]).split()


def weight_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of a layer, by name, as its parameters declare it."""
    p = layer.parameters
    channels, outputs = int(p["channels"]), int(p["outputs"])
    columns = 2 * outputs if p.get("gate") else outputs
    shapes: dict[str, tuple[int, ...]] = {"scale": (1, 1, channels), "shift": (1, 1, channels)}
    if layer.op == "Conv":
        shapes |= {
            "weight": (int(p["taps"]), channels // max(int(p["group"]), 1), columns),
            "bias": (columns,),
        }
    return {name: shapes[name] for name in str(p["weights"]).split() if name in shapes}


def tensor_shapes(layer: Layer, inputs: Sequence[Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes [1, C, 1, P] that a layer takes, by name, and what it gives as `""`, for inputs of these shapes.

    Rows that go in have any number where the parameters do not fix it: that of `inputs`.
    """
    p = layer.parameters
    channels, outputs, count = int(p["channels"]), int(p["outputs"]), int(p["rows"])
    given = dict(zip(layer.inputs, inputs))
    pixels = given["rows"][-1] if p.get("geometry") else count
    second = int(p.get("channels_2", 0))
    wanted = {
        "rows": (1, channels - second, 1, pixels),
        "rows_2": (1, second, 1, pixels),
        "embedding": (1, outputs, 1, 1),
        "residual": (1, outputs, 1, count),
        "multiplier": (1, outputs, 1, count),
        "q": (1, channels, 1, count),
        "k": (1, int(p.get("k_channels", 0)), 1, count),
        "v": (1, int(p.get("v_channels", 0)), 1, count),
        "": (1, outputs, 1, int(p["pixels"]) if layer.op == "Scatter" else count),
    }
    return {name: wanted[name] for name in (*layer.inputs, "") if name in wanted}


def read_layer(message: Any) -> Layer:
    """A custom layer of a model (`NeuralNetworkLayer`) that passed the check."""
    parameters = {name: read_parameter(value) for name, value in message.custom.parameters.items()}
    names = str(parameters["weights"]).split()
    weights = {
        name: np.frombuffer(weight.float16Value, np.float16)
        for name, weight in zip(names, message.custom.weights)
    }
    return Layer(message.name, message.custom.className, parameters, weights)


def read_parameter(message: Any) -> Any:
    """The value of a `CustomLayerParamValue`; None if it has none."""
    kind = message.WhichOneof("value")
    return None if kind is None else getattr(message, kind)
