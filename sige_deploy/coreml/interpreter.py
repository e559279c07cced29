"""Running an edit model of Core ML in numpy, with custom layers as implementations of one's choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.coreml.checker import BYTES, require_sound
from sige_deploy.coreml.context import Context
from sige_deploy.coreml.layers import read_layer
from sige_deploy.coreml.messages import messages
from sige_deploy.coreml.numpy_layers import NUMPY, Implementation
from sige_deploy.errors import BundleError, InputError
from sige_deploy.ops.activation import activation

Arrays = dict[str, np.ndarray]
_ACTIVATIONS = {"ReLU": "relu", "leakyReLU": "leaky_relu", "sigmoid": "sigmoid", "tanh": "tanh"}


def read_model(path: str | os.PathLike[str]) -> Any:
    """The `Model` message of a .mlmodel file. Raises BundleError for what is none, RuntimeFailure without
    coremltools."""
    from google.protobuf.message import DecodeError

    model = messages("Model").Model()
    try:
        if Path(path).stat().st_size >= BYTES:
            raise BundleError(f"'{path}' takes 2 GiB or more, a Core ML model takes less; build it anew.")
        model.ParseFromString(Path(path).read_bytes())
    except OSError as error:
        raise BundleError(
            f"cannot read '{path}' ({error.strerror}); build the Core ML models anew."
        ) from error
    except DecodeError as error:
        raise BundleError(f"'{path}' is not a Core ML model ({error}); build it anew.") from error
    return model


class Interpreter:
    """An edit model, checked, and run layer after layer.

    implementations: of the custom layers, by class name; by default the numpy definitions of the ops.
    dtype: of the tensors between layers: float16, as on Apple's GPUs, or float32.
    """

    def __init__(
        self,
        model: Any,
        implementations: Mapping[str, Implementation] = NUMPY,
        dtype: type[np.floating[Any]] = np.float16,
    ) -> None:
        require_sound(model, "The model")
        self._model, self._implementations, self._dtype = model, implementations, dtype
        self._layers = {
            layer.name: read_layer(layer)
            for layer in model.neuralNetwork.layers
            if layer.WhichOneof("layer") == "custom"
        }

    def predict(self, inputs: Mapping[str, np.ndarray], context: Context) -> Arrays:
        """The outputs [1, C, 1, P] by name, float32, for such inputs. Raises InputError for other ones."""
        values: Arrays = {}
        for feature in self._model.description.input:
            shape = tuple(feature.type.multiArrayType.shape)
            array = inputs.get(feature.name)
            if array is None or array.shape != shape:
                found = "nothing" if array is None else list(array.shape)
                raise InputError(f"The model takes '{feature.name}' of {list(shape)}, got {found}.")
            values[feature.name] = array.astype(self._dtype)
        for layer in self._model.neuralNetwork.layers:
            given = [values[name] for name in layer.input]
            if layer.name in self._layers:
                custom = self._layers[layer.name]
                result = self._implementations[custom.class_name](custom, given, context)
            else:
                result = _standard(layer, given)
            wanted = tuple(layer.outputTensor[0].dimValue)
            if result.shape != wanted:
                raise InputError(
                    f"Layer '{layer.name}' gave {list(result.shape)}, the model says {list(wanted)}."
                )
            values[layer.output[0]] = result.astype(self._dtype)
        return {
            feature.name: values[feature.name].astype(np.float32)
            for feature in self._model.description.output
        }


_NUMPY: Mapping[str, Callable[..., np.ndarray]] = {
    "addBroadcastable": np.add,
    "subtractBroadcastable": np.subtract,
    "multiplyBroadcastable": np.multiply,
    "divideBroadcastable": np.divide,
}


def _standard(layer: Any, given: Sequence[np.ndarray]) -> np.ndarray:
    kind = layer.WhichOneof("layer")
    if kind == "copy":
        return given[0]
    if kind in _NUMPY:
        return _NUMPY[kind](*given)
    if kind == "concatND":
        return np.concatenate(given, axis=layer.concatND.axis)
    if kind == "loadConstantND":
        constant = layer.loadConstantND
        return np.frombuffer(constant.data.float16Value, np.float16).reshape(tuple(constant.shape))
    name = layer.activation.WhichOneof("NonlinearityType")
    return activation(_ACTIVATIONS[name], given[0], layer.activation.leakyReLU.alpha)
