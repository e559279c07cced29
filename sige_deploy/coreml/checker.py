"""A structural check of Core ML models: coremltools accepts broken ones, Apple's compiler needs a Mac."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from sige_deploy.coreml.layers import (
    OPS,
    TENSORS,
    WEIGHTS,
    Layer,
    parameter_types,
    read_parameter,
    tensor_shapes,
    weight_shapes,
)
from sige_deploy.errors import ExportError
from sige_deploy.ops.activation import GATES
from sige_deploy.ops.attention import OFFSETS, parts_mistake

BYTES: Final = 2 << 30  # a model of this format, and any protobuf message, is smaller
CHANNELS: Final = 4 * 2048  # four in each slice of a texture
PIXELS: Final = 16384  # of a texture's side

Shape = tuple[int, ...]
_KINDS: Final = {str: {"stringValue"}, int: {"intValue", "longValue"}, float: {"doubleValue"}}
_WEIGHT_KINDS: Final = ("floatValue", "float16Value", "rawValue", "int8RawValue")
#: Of layers without weights: shape of the output for those of the inputs.
_SHAPES: Final[dict[str, Callable[[Any, Sequence[Shape]], Shape]]] = {
    "copy": lambda layer, given: given[0],
    "activation": lambda layer, given: given[0],
    "addBroadcastable": lambda layer, given: np.broadcast_shapes(*given),
    "subtractBroadcastable": lambda layer, given: np.broadcast_shapes(*given),
    "multiplyBroadcastable": lambda layer, given: np.broadcast_shapes(*given),
    "divideBroadcastable": lambda layer, given: np.broadcast_shapes(*given),
    "concatND": lambda layer, given: _joined(given, layer.concatND.axis),
    "loadConstantND": lambda layer, given: tuple(layer.loadConstantND.shape),
}


def require_sound(model: Any, what: str) -> None:
    """Raises ExportError with everything that `faults` finds in a model; what: its name in the sentence."""
    found = list(faults(model))
    if found:
        raise ExportError(f"{what} is no sound Core ML model: {'; '.join(found)}.")


def faults(model: Any, size: int | None = None) -> Iterator[str]:
    """What is wrong with the structure of a `Model` message, one text for each fault.

    size: bytes of its file, by default those that the message takes.
    """
    size = model.ByteSize() if size is None else size
    if size >= BYTES:
        yield f"it takes {size} bytes, and a model takes less than {BYTES} (2 GiB)"
    kind = model.WhichOneof("Type")
    if kind != "neuralNetwork":
        yield f"it is of type {kind}: custom layers exist in neuralNetwork models alone"
        return
    shapes: dict[str, Shape] = {}
    for feature in model.description.input:
        if feature.name in shapes:
            yield f"input '{feature.name}' is there twice"
        shapes[feature.name] = shape = tuple(feature.type.multiArrayType.shape)
        yield from _texture(f"input '{feature.name}'", shape)
    read = set()
    names = set()
    for layer in model.neuralNetwork.layers:
        who = f"layer '{layer.name}'"
        if not layer.name or layer.name in names:
            yield f"{who} has no name of its own"
        names.add(layer.name)
        missing = [name for name in layer.input if name not in shapes]
        for name in missing:
            yield f"{who} reads '{name}', which nothing in front of it gives"
        read.update(layer.input)
        if len(layer.output) != 1:
            yield f"{who} has {len(layer.output)} outputs, its kind has one"
        for name in layer.output:
            if name in shapes:
                yield f"{who} gives '{name}', which is given already"
        found = [] if missing else list(_layer(layer, [shapes[name] for name in layer.input]))
        yield from (f"{who} {fault}" for fault in found)
        for name, tensor in zip(layer.output, layer.outputTensor):
            shapes[name] = tuple(tensor.dimValue)
            yield from _texture(who, shapes[name])
        for name in layer.output[len(layer.outputTensor) :]:
            yield f"{who} declares no shape of '{name}'"
            shapes[name] = ()
    for feature in model.description.input:
        if feature.name not in read:
            yield f"input '{feature.name}' is read by no layer"
    if not model.description.output:
        yield "it has no outputs"
    for feature in model.description.output:
        shape = tuple(feature.type.multiArrayType.shape)
        if feature.name not in shapes:
            yield f"output '{feature.name}' is given by no layer"
        elif shape != shapes[feature.name]:
            gives = list(shapes[feature.name])
            yield f"output '{feature.name}' is declared as {list(shape)}, its layer gives {gives}"


def _layer(layer: Any, given: Sequence[Shape]) -> Iterator[str]:
    kind = layer.WhichOneof("layer")
    if kind is None:
        yield "has no kind"
        return
    declared = [tuple(tensor.dimValue) for tensor in layer.inputTensor]
    if declared != list(given):
        yield f"declares inputs {[list(s) for s in declared]}, it is given {[list(s) for s in given]}"
    if any(tensor.rank != len(tensor.dimValue) for tensor in (*layer.inputTensor, *layer.outputTensor)):
        yield "declares a rank that is not the number of its dimensions"
    wanted: Shape | None = None
    if kind == "custom":
        found = list(_custom(layer))
        yield from found
        if not found:
            described = _as_layer(layer)
            shapes = tensor_shapes(described, given)
            for name, shape in zip(described.inputs, given):
                if shapes[name] != shape:
                    yield f"takes {name} of {list(shapes[name])}, it is given {list(shape)}"
            wanted = shapes[""]
    elif kind not in _SHAPES:
        yield f"is of kind {kind}, which the exporter does not write"
    else:
        try:
            wanted = _SHAPES[kind](layer, given)
        except (ValueError, IndexError):
            yield f"of kind {kind} cannot take {[list(s) for s in given]}"
        if kind == "loadConstantND":
            yield from _weight("data", layer.loadConstantND.data, tuple(layer.loadConstantND.shape))
    gives = tuple(layer.outputTensor[0].dimValue) if layer.outputTensor else None
    if wanted is not None and gives is not None and gives != wanted:
        yield f"declares an output of {list(gives)}, it gives {list(wanted)}"


def _custom(layer: Any) -> Iterator[str]:
    """Class, parameters and weights of a custom layer."""
    custom = layer.custom
    if not custom.className:
        yield "has no class name"
        return
    if custom.className not in OPS:
        yield f"has class '{custom.className}', which is none of {', '.join(OPS)}"
        return
    wanted = parameter_types(OPS[custom.className])
    for name in sorted(wanted.keys() - custom.parameters.keys()):
        yield f"lacks parameter '{name}'"
    bad = bool(wanted.keys() - custom.parameters.keys())
    for name, value in sorted(custom.parameters.items()):
        kind = value.WhichOneof("value")
        if name not in wanted:
            yield f"has a parameter '{name}', which its class does not know"
        elif kind not in _KINDS[wanted[name]]:
            bad = True
            yield f"has parameter '{name}' as {kind or 'nothing'}, not as {wanted[name].__name__}"
    if bad:
        return
    told = _as_layer(layer)
    p = told.parameters
    for name in ("rows", "channels", "outputs", "taps", "pixels", "group", "phases", "heads"):
        if name in p and p[name] < 1:
            yield f"has {name} {p[name]}, which is 1 or more"
            return
    for name in ("group", "phases", "heads"):
        if name not in p or p.get("dk"):
            continue
        if p["channels"] % p[name] or (name != "phases" and p["outputs"] % p[name]):
            yield f"has {name} {p[name]}, which does not divide its channels"
            return
    unknown = [n for n in told.inputs if n not in TENSORS] + [
        n for n in p["weights"].split() if n not in WEIGHTS
    ]
    for name in unknown:
        yield f"has '{name}' among its inputs or weights, which no op has"
    if unknown:
        return
    if len(told.inputs) != len(layer.input):
        yield f"reads {len(layer.input)} tensors and names {len(told.inputs)}"
    yield from _places(told)
    names = p["weights"].split()
    if len(names) != len(custom.weights):
        yield f"has {len(custom.weights)} weights and names {len(names)}"
        return
    shapes = weight_shapes(told)
    for name, weight in zip(names, custom.weights):
        if name not in shapes:
            yield f"has a weight '{name}', which its class does not know"
        else:
            yield from _weight(name, weight, shapes[name])


def _places(layer: Layer) -> Iterator[str]:
    """What a layer reads out of the context, and the inputs that go with it."""
    p, tensors, weights = layer.parameters, layer.inputs, layer.parameters["weights"].split()
    if not p["level"]:
        yield "names no level"
    for name in ("k_base", "v_base"):
        if name in p and not p[name]:
            yield f"names no {name}"
    if layer.op == "Scatter" and not p["base"]:
        yield "names no base"
    required = "q" if layer.op == "Attention" else "rows"
    if required not in tensors:
        yield f"takes no {required}"
    if layer.op == "Attention":
        yield from _parts(layer)
    if "geometry" not in p:
        return
    if layer.op == "Conv" and "weight" not in weights:
        yield "has no weight"
    if layer.op == "Conv" and p["gate"] not in ("", *GATES):
        yield f"has gate '{p['gate']}', which no op has"
    if layer.op == "Conv" and (p["gate"] or p["norm_epsilon"]) and p["group"] != 1:
        yield "has a norm or a gate of several groups"
    if bool(p["geometry"]) != bool(p["base"]):
        yield "names only one of geometry and base"
    if bool(p["base_2"]) != ("rows_2" in tensors and bool(p["base"])):
        yield "names base_2 without rows_2 and base, or these without base_2"
    if (p["channels_2"] > 0) != ("rows_2" in tensors) or p["channels_2"] >= p["channels"]:
        yield f"has {p['channels_2']} channels_2 of {p['channels']} channels, which its inputs do not fit"
    if not p["geometry"] and (p["taps"] != 1 or p["source"] != p["level"]):
        yield "has several taps, or another level than its source, without a geometry"
    for name in ("scale", "shift"):
        if p[f"{name}_name"] and name in weights:
            yield f"has its {name} both recorded and as a weight"


def _parts(layer: Layer) -> Iterator[str]:
    """The channels that an Attention reads of its inputs."""
    p, tensors = layer.parameters, layer.inputs
    if ("k" in tensors) != ("v" in tensors):
        yield "takes only one of k and v"
    mistake = parts_mistake(p["dk"], p["dv"], [p[name] for name in OFFSETS])
    if mistake is not None:
        yield f"has attributes that do not fit: {mistake.rstrip('.')}"
        return
    dk, dv = (p["dk"], p["dv"]) if p["dk"] else (p["channels"] // p["heads"], p["outputs"] // p["heads"])
    if p["heads"] * dv != p["outputs"]:
        yield f"has {p['outputs']} outputs, its {p['heads']} heads give {p['heads'] * dv}"
    for name in (*tensors, "k_base", "v_base"):
        channels = p["channels"] if name == "q" else p[f"{name}_channels"]
        end = p[f"{name}_offset"] + p["heads"] * (dv if name.startswith("v") else dk)
        if end > channels or (not p["dk"] and end < channels):
            yield f"reads {end} channels of {name}, which has {channels}"


def _weight(name: str, weight: Any, shape: Shape) -> Iterator[str]:
    kinds = [kind for kind in _WEIGHT_KINDS if len(getattr(weight, kind))]
    if len(kinds) != 1:
        yield f"has weight '{name}' as {' and '.join(kinds) or 'nothing'}, not as one kind"
        return
    if kinds != ["float16Value"]:
        yield f"has weight '{name}' as {kinds[0]}, not as float16Value"
        return
    count = len(weight.float16Value)
    if count % 2:
        yield f"has weight '{name}' of {count} bytes, which is odd"
    elif count != 2 * int(np.prod(shape)):
        yield f"has weight '{name}' of {count // 2} values, its shape {list(shape)} has {int(np.prod(shape))}"


def _texture(who: str, shape: Shape) -> Iterator[str]:
    if len(shape) != 4 or min(shape, default=0) < 1 or shape[0] != 1 or shape[2] != 1:
        yield f"{who} has shape {list(shape)}, which is not [1, C, 1, P]"
    elif shape[1] > CHANNELS or shape[3] > PIXELS:
        most = f"{CHANNELS} channels and {PIXELS} pixels a side"
        yield f"{who} has shape {list(shape)}, and a texture has at most {most}"


def _as_layer(layer: Any) -> Layer:
    parameters = {name: read_parameter(value) for name, value in layer.custom.parameters.items()}
    return Layer(layer.name, layer.custom.className, parameters, {})


def _joined(given: Sequence[Shape], axis: int) -> Shape:
    first = list(given[0])
    if any([*s[:axis], *s[axis + 1 :]] != [*first[:axis], *first[axis + 1 :]] for s in given):
        raise ValueError
    first[axis] = sum(shape[axis] for shape in given)
    return tuple(first)
