"""The edit graph of a bundle as a Core ML `neuralnetwork` model of one bucket of row counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.coreml.checker import BYTES, CHANNELS, PIXELS
from sige_deploy.coreml.layers import CLASSES, TENSORS, WEIGHTS, parameter_types
from sige_deploy.coreml.messages import messages
from sige_deploy.errors import ExportError
from sige_deploy.manifest import Manifest
from sige_deploy.ops import DOMAIN, SIGNATURES

if TYPE_CHECKING:
    import onnx_ir as ir

SPECIFICATION = 4  # of iOS 13 and macOS 10.15, the first with exact array shapes
_BINARY = {
    "Add": "addBroadcastable",
    "Sub": "subtractBroadcastable",
    "Mul": "multiplyBroadcastable",
    "Div": "divideBroadcastable",
}
_ACTIVATIONS = {"Relu": "ReLU", "LeakyRelu": "leakyReLU", "Sigmoid": "sigmoid", "Tanh": "tanh"}


@dataclass(frozen=True)
class _Tensor:
    """A value in the model: [1, channels, 1, pixels]; the level of its rows, None for [1, 1, C] and a map."""

    name: str
    channels: int
    pixels: int
    level: str | None


def edit_model(edit: ir.Model, manifest: Manifest, rows: Mapping[str, int], context: int) -> Any:
    """The edit graph as a `Model` message, its rows as [1, C, 1, P] with P as `rows` has it for each level.

    context: number of the context that the layers read tables and bases from. Weights are float16. Raises
    ExportError with the node and the reason where Core ML or the layers cannot take the graph.
    """
    return _Writer(edit, manifest, rows, context).write()


class _Writer:
    def __init__(self, edit: ir.Model, manifest: Manifest, rows: Mapping[str, int], context: int) -> None:
        self.graph, self.rows, self.context = edit.graph, rows, context
        self.levels = {level.id: level for level in manifest.levels}
        self.geometries = {geometry.id: geometry for geometry in manifest.geometries}
        self.registered = {cache.name: cache for cache in manifest.caches}
        self.spatial = {f"rows.{spec.name}": spec.level for spec in manifest.spatial()}
        self.tensors: dict[ir.Value, _Tensor] = {}
        self.bytes = 0
        self.model = messages("Model").Model()
        self.model.specificationVersion = SPECIFICATION
        mapping = messages("NeuralNetwork").NeuralNetworkMultiArrayShapeMapping
        self.model.neuralNetwork.arrayInputShapeMapping = mapping.Value("EXACT_ARRAY_MAPPING")

    def write(self) -> Any:
        for node in self.graph:
            if node.domain == DOMAIN:
                self._custom(node)
            else:
                self._standard(node)
        for value in self.graph.outputs:
            tensor = self.tensors[value]
            self._describe(self.model.description.output.add(), tensor)
        return self.model

    def _custom(self, node: ir.Node) -> None:
        signature = SIGNATURES[node.op_type]
        signature.check(node)
        given = {name: value for name, value in zip(signature.inputs, node.inputs) if value is not None}
        told: dict[str, Any] = {name: signature.attribute(node, name) for name in signature.attributes}
        weights: dict[str, np.ndarray] = {
            name: self._weight(node, given.pop(name))
            for name in WEIGHTS
            if name in given and given[name].const_value is not None
        }
        told |= {"context": self.context, "weights": " ".join(weights)}
        tensors = [name for name in TENSORS if name in given]
        if node.op_type == "Scatter":
            told |= self._scatter(node, given)
        elif node.op_type == "Attention":
            told |= self._attention(node, given)
        else:
            told |= self._reading(node, given, weights)
        told["inputs"] = " ".join(tensors)
        shape = (told["outputs"], told["rows"])
        if node.op_type == "Scatter":
            shape = told["outputs"], told["pixels"]
        layer = self._layer(node, [given[name] for name in tensors], *shape, told["level"])
        layer.custom.className = CLASSES[node.op_type]
        layer.custom.description = f"sige {node.op_type}"
        for name, kind in parameter_types(node.op_type).items():
            value = layer.custom.parameters[name]
            setattr(
                value, {str: "stringValue", int: "intValue", float: "doubleValue"}[kind], kind(told[name])
            )
        for array in weights.values():
            layer.custom.weights.add().float16Value = array.tobytes()

    def _reading(
        self, node: ir.Node, given: dict[str, ir.Value], weights: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Gather and Conv."""
        rows, level = self._rows(node, given["rows"])
        told: dict[str, Any] = {"source": level, "level": level, "geometry": "", "taps": 1}
        if "table" in given:
            geometry = self._geometry(node, given["table"])
            taps = given["table"].shape[1] if given["table"].shape is not None else None
            assert isinstance(taps, int)
            told |= {"geometry": geometry.id, "level": geometry.target, "taps": taps}
        told |= {name: self._registry(node, given, name) for name in ("base", "base_2")}
        told |= {f"{name}_name": self._registry(node, given, name) for name in ("scale", "shift")}
        told["channels_2"] = self._tensor(node, given["rows_2"]).channels if "rows_2" in given else 0
        channels = rows.channels + told["channels_2"]
        if node.op_type == "Conv":
            if "weight" not in weights or "bias" in given:
                raise self._refusal(node, "its weight or bias is computed in the graph")
            gated = "gate" in node.attributes and node.attributes["gate"].as_string()
            outputs = weights["weight"].shape[2] // (2 if gated else 1)
        else:
            phases = node.attributes["phases"].as_int() if "phases" in node.attributes else 1
            outputs = told["taps"] * channels // phases
        return {**told, "channels": channels, "outputs": outputs, "rows": self.rows[told["level"]]}

    def _scatter(self, node: ir.Node, given: dict[str, ir.Value]) -> dict[str, Any]:
        rows, id_ = self._rows(node, given["rows"])
        level = self.levels[id_]
        return {
            "base": self._registry(node, given, "base"), "level": id_, "rows": self.rows[id_],
            "channels": rows.channels, "outputs": rows.channels, "pixels": level.height * level.width,
        }  # fmt: skip

    def _attention(self, node: ir.Node, given: dict[str, ir.Value]) -> dict[str, Any]:
        rows, level = self._rows(node, given["q"])
        told: dict[str, Any] = {name: self._registry(node, given, name) for name in ("k_base", "v_base")}
        told |= {f"{name}_channels": self.registered[told[name]].shape[2] for name in ("k_base", "v_base")}
        for name in ("k", "v"):
            told[f"{name}_channels"] = self._tensor(node, given[name]).channels if name in given else 0
        wide = {name: node.attributes[name].as_int() for name in ("heads", "dv") if name in node.attributes}
        return {
            **told, "level": level, "rows": self.rows[level], "channels": rows.channels,
            "outputs": wide["heads"] * wide["dv"] if wide.get("dv") else told["v_base_channels"],
        }  # fmt: skip

    def _standard(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        kind = node.op_type
        if kind == "Constant" and node.outputs[0].const_value is not None:
            return  # its readers take the value
        if kind not in {"Identity", "Concat", *_BINARY, *_ACTIVATIONS}:
            raise self._refusal(node, "there is no layer for this op")
        given = [self._tensor(node, value) for value in inputs]
        channels = max(tensor.channels for tensor in given)
        level = next((tensor.level for tensor in given if tensor.level), None)
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else None
        if kind == "Concat":
            if axis not in (2, -1) or any(tensor.level != level for tensor in given):
                raise self._refusal(node, "it joins other axes than channels")
            channels = sum(tensor.channels for tensor in given)
        pixels = max(tensor.pixels for tensor in given)
        layer = self._layer(node, inputs, channels, pixels, level)
        if kind == "Identity":
            layer.copy.SetInParent()
        elif kind == "Concat":
            layer.concatND.axis = 1
        elif kind in _BINARY:
            getattr(layer, _BINARY[kind]).SetInParent()
        else:
            activation = getattr(layer.activation, _ACTIVATIONS[kind])
            activation.SetInParent()
            if kind == "LeakyRelu":
                activation.alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.01

    def _layer(
        self, node: ir.Node, inputs: list[ir.Value], channels: int, pixels: int, level: str | None
    ) -> Any:
        """A layer for a node of one output."""
        if len(node.outputs) != 1:
            raise self._refusal(node, "it has several outputs")
        given = [self._tensor(node, value) for value in inputs]
        output = _Tensor(str(node.outputs[0].name), channels, pixels, level)
        self._check_texture(node, channels, pixels)
        layer = self.model.neuralNetwork.layers.add()
        layer.name = output.name
        for tensor in given:
            layer.input.append(tensor.name)
            self._shape(layer.inputTensor.add(), tensor)
        layer.output.append(output.name)
        self._shape(layer.outputTensor.add(), output)
        self.tensors[node.outputs[0]] = output
        return layer

    def _tensor(self, node: ir.Node, value: ir.Value) -> _Tensor:
        """The tensor of a value; an input or constant becomes one when it is first read."""
        if value not in self.tensors:
            if value.const_value is not None:
                self.tensors[value] = self._constant(node, value)
            elif value.producer() is None:
                self.tensors[value] = self._input(node, value)
            else:
                raise self._refusal(node, f"its input '{value.name}' is no rows")
        return self.tensors[value]

    def _input(self, node: ir.Node, value: ir.Value) -> _Tensor:
        name, dims = str(value.name), tuple(value.shape or ())
        level = self.spatial.get(name)
        if len(dims) != 3 or dims[0] != 1 or not isinstance(dims[2], int) or (level is None and dims[1] != 1):
            shape = f"[{', '.join(map(str, dims))}]"
            raise self._refusal(
                node, f"its input '{name}' has shape {shape}; layers take one image's [1, P, C] or [1, 1, C]"
            )
        tensor = _Tensor(name, int(dims[2]), self.rows[level] if level else 1, level)
        self._check_texture(node, tensor.channels, tensor.pixels)
        self._describe(self.model.description.input.add(), tensor)
        return tensor

    def _constant(self, node: ir.Node, value: ir.Value) -> _Tensor:
        array = self._weight(node, value)
        if array.ndim and array.size != array.shape[-1]:
            raise self._refusal(node, f"its constant '{value.name}' is not one value for each channel")
        tensor = _Tensor(str(value.name), array.size, 1, None)
        layer = self.model.neuralNetwork.layers.add()
        layer.name = tensor.name
        layer.output.append(tensor.name)
        self._shape(layer.outputTensor.add(), tensor)
        layer.loadConstantND.shape.extend([1, tensor.channels, 1, 1])
        layer.loadConstantND.data.float16Value = array.tobytes()
        return tensor

    def _weight(self, node: ir.Node, value: ir.Value) -> np.ndarray:
        assert value.const_value is not None
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            halves = array.astype(np.float16)
        if not np.isfinite(halves).all():
            raise self._refusal(node, f"its constant '{value.name}' has values that float16 cannot hold")
        self.bytes += halves.nbytes
        if self.bytes >= BYTES:
            raise ExportError(
                "The edit graph's weights take 2 GiB or more in float16, and a Core ML model of this format "
                "takes less; export a part of the network."
            )
        return np.ascontiguousarray(halves)

    def _registry(self, node: ir.Node, given: Mapping[str, ir.Value], name: str) -> str:
        """Name of the recorded array that an input is; empty without that input."""
        if name not in given:
            return ""
        cache = self.registered.get(str(given[name].name))
        if cache is None or given[name].producer() is not None:
            raise self._refusal(
                node, f"its {name} is computed in the graph; layers read recorded arrays alone"
            )
        if cache.shape[0] != 1:
            raise self._refusal(node, f"its {name} is of {cache.shape[0]} images; the layers take one")
        return cache.name

    def _geometry(self, node: ir.Node, table: ir.Value) -> Any:
        geometry = self.geometries.get(str(table.name).removeprefix("table."))
        if geometry is None:
            raise self._refusal(node, f"its table '{table.name}' is not of the bundle's geometries")
        return geometry

    def _rows(self, node: ir.Node, value: ir.Value) -> tuple[_Tensor, str]:
        """The tensor of rows and their level."""
        tensor = self._tensor(node, value)
        if tensor.level is None:
            raise self._refusal(node, f"its input '{value.name}' is no rows")
        return tensor, tensor.level

    def _shape(self, message: Any, tensor: _Tensor) -> None:
        message.rank = 4
        message.dimValue.extend([1, tensor.channels, 1, tensor.pixels])

    def _describe(self, feature: Any, tensor: _Tensor) -> None:
        feature.name = tensor.name
        array = feature.type.multiArrayType
        array.shape.extend([1, tensor.channels, 1, tensor.pixels])
        array.dataType = messages("FeatureTypes").ArrayFeatureType.ArrayDataType.Value("FLOAT32")

    def _check_texture(self, node: ir.Node, channels: int, pixels: int) -> None:
        if channels > CHANNELS or pixels > PIXELS:
            raise self._refusal(
                node,
                f"it gives or takes {channels} channels of {pixels} pixels; a Metal texture has at most "
                f"{CHANNELS} channels (2048 slices of 4) and {PIXELS} pixels a side",
            )

    def _refusal(self, node: ir.Node, reason: str) -> ExportError:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return ExportError(f"Core ML cannot run node '{node.name}' ({kind}) of the edit graph: {reason}.")
