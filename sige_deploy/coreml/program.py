"""ML Programs: read from a .mlpackage, checked for what the exporter writes, and run in numpy."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sige_deploy.coreml.messages import messages
from sige_deploy.coreml.program_ops import NUMPY, PARAMETERS
from sige_deploy.errors import BundleError, ExportError, InputError

_DATA: Final = Path("Data/com.apple.CoreML")
_MODEL: Final = _DATA / "model.mlmodel"
_WEIGHTS: Final = "@model_path/weights/weight.bin"
_SENTINEL: Final = 0xDEADBEEF  # in front of every array of a weight file
_BLOBS: Final = {
    1: np.dtype(np.float16),
    2: np.dtype(np.float32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int8),
}
_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "FLOAT16": np.dtype(np.float16), "FLOAT32": np.dtype(np.float32), "INT32": np.dtype(np.int32),
    "BOOL": np.dtype(np.bool_),
}  # fmt: skip


class Package:
    """The model of a .mlpackage and its weights. Raises BundleError for what is none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from google.protobuf.message import DecodeError

        self.path = Path(path)
        self.model = messages("Model").Model()
        try:
            self.model.ParseFromString((self.path / _MODEL).read_bytes())
            weights = self.path / _DATA / "weights" / "weight.bin"
            self.weights = np.memmap(weights, np.uint8, "r") if weights.is_file() else np.zeros(0, np.uint8)
        except OSError as error:
            raise BundleError(f"cannot read '{path}' ({error.strerror}); build the models anew.") from error
        except DecodeError as error:
            raise BundleError(f"'{path}' is not a Core ML package ({error}); build it anew.") from error

    @property
    def operations(self) -> Any:
        """The operations of its only function, in order."""
        function = self.model.mlProgram.functions["main"]
        return function.block_specializations[function.opset].operations

    @property
    def outputs(self) -> list[str]:
        function = self.model.mlProgram.functions["main"]
        return list(function.block_specializations[function.opset].outputs)

    def constant(self, value: Any) -> Any:
        """A `Value` message as an array, a text or a list of texts. Raises ValueError for a damaged one."""
        kind = value.WhichOneof("value")
        tensor = value.type.tensorType
        name = messages("MIL").DataType.Name(tensor.dataType)
        shape = tuple(d.constant.size for d in tensor.dimensions)
        if kind == "blobFileValue":
            return self._blob(value.blobFileValue, _TYPES[name], shape)
        held = value.immediateValue.tensor
        filled = held.WhichOneof("value")
        if filled == "strings":
            texts = list(held.strings.values)
            return texts if shape else texts[0]
        if filled == "bytes":
            return np.frombuffer(held.bytes.values, _TYPES[name]).reshape(shape)
        listed: Any = getattr(held, filled or "ints").values
        return np.array(list(listed), _TYPES[name]).reshape(shape)

    def _blob(self, blob: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        if blob.fileName != _WEIGHTS or blob.offset + 24 > self.weights.size:
            raise ValueError(f"its weights are said to be in {blob.fileName} at {blob.offset}")
        start = int(blob.offset)
        sentinel, kind, count, at = struct.unpack("<IIQQ", self.weights[start : start + 24].tobytes())
        if (
            sentinel != _SENTINEL
            or _BLOBS.get(kind) != dtype
            or count != dtype.itemsize * int(np.prod(shape))
        ):
            raise ValueError(f"its weights at {start} are not {dtype} of {list(shape)}")
        if at + count > self.weights.size:
            raise ValueError(f"its weights end at byte {at + count}, the file at {self.weights.size}")
        return self.weights[at : at + count].view(dtype).reshape(shape)


def require_sound(package: Package) -> None:
    """Raises ExportError with everything that `faults` finds."""
    found = list(faults(package))
    if found:
        raise ExportError(f"{package.path.name} is no sound ML Program: {'; '.join(found)}.")


def faults(package: Package) -> Iterator[str]:
    """What is wrong with an ML Program, one text for each fault."""
    model = package.model
    if model.WhichOneof("Type") != "mlProgram":
        yield f"it is of type {model.WhichOneof('Type')}"
        return
    if list(model.mlProgram.functions) != ["main"]:
        yield f"its functions are {list(model.mlProgram.functions)}, not main alone"
        return
    function = model.mlProgram.functions["main"]
    given = {x.name: x.type.tensorType for x in function.inputs}
    if set(given) != {x.name for x in model.description.input}:
        yield "the inputs of its function are not those of its description"
    for operation in package.operations:
        who = f"{operation.type} '{operation.outputs[0].name if operation.outputs else ''}'"
        if operation.type != "const" and operation.type not in NUMPY:
            yield f"{who} is no operation that the exporter writes"
        for name, argument in operation.inputs.items():
            if operation.type in PARAMETERS and name not in PARAMETERS[operation.type]:
                yield f"{who} has an unknown parameter '{name}'"
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name not in given:
                    yield f"{who} reads '{binding.name}', which nothing in front of it gives"
        if operation.type == "const":
            try:
                package.constant(operation.attributes["val"])
            except (ValueError, KeyError) as error:
                yield f"{who} is damaged: {error}"
        for output in operation.outputs:
            if output.name in given:
                yield f"{who} gives '{output.name}', which is given already"
            given[output.name] = output.type.tensorType
    declared = {x.name: tuple(x.type.multiArrayType.shape) for x in model.description.output}
    if list(declared) != package.outputs:
        yield "the outputs of its function are not those of its description"
    for name, shape in declared.items():
        if name not in given:
            yield f"output '{name}' is given by no operation"
        elif shape and shape != tuple(d.constant.size for d in given[name].dimensions):
            yield f"output '{name}' is declared as {list(shape)}, which its operation does not give"


class ProgramInterpreter:
    """An ML Program, checked, and run operation after operation in numpy."""

    def __init__(self, package: Package) -> None:
        require_sound(package)
        self._package = package

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by the model's names, for its inputs by theirs. Raises InputError for other shapes, and
        where an operation gives another shape or type than the program says."""
        values: dict[str, Any] = {}
        for feature in self._package.model.mlProgram.functions["main"].inputs:
            shape, dtype = _declared(feature)
            array = inputs.get(feature.name)
            if array is None or array.shape != shape:
                raise InputError(f"The model takes '{feature.name}' of {list(shape)}.")
            values[feature.name] = array.astype(dtype)
        for operation in self._package.operations:
            if operation.type == "const":
                values[operation.outputs[0].name] = self._package.constant(operation.attributes["val"])
                continue
            given = {name: self._argument(argument, values) for name, argument in operation.inputs.items()}
            result = NUMPY[operation.type](**given)
            for output, made in zip(operation.outputs, result if isinstance(result, list) else [result]):
                if (made.shape, made.dtype) != _declared(output):
                    raise InputError(
                        f"Operation '{output.name}' ({operation.type}) gave {made.dtype} "
                        f"{list(made.shape)}, the program says {_declared(output)}."
                    )
                values[output.name] = made
        return {name: values[name] for name in self._package.outputs}

    def _argument(self, argument: Any, values: Mapping[str, Any]) -> Any:
        read = [
            values[x.name] if x.WhichOneof("binding") == "name" else self._package.constant(x.value)
            for x in argument.arguments
        ]
        return read if len(read) > 1 else read[0]


def _declared(output: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    tensor = output.type.tensorType
    name = messages("MIL").DataType.Name(tensor.dataType)
    return tuple(d.constant.size for d in tensor.dimensions), _TYPES[name]
