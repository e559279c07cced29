"""Every seeded fault of an edit model is found, and named; a sound model has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sige_deploy as sige
from sige_deploy.coreml.checker import BYTES, faults, require_sound

pytest.importorskip("coremltools", reason="coremltools is not installed")


class Network(nn.Module):
    """Two convs, the second of them with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(image))
        return self.second(x) + x


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import onnx_ir as ir

    from sige_deploy.exporters.coreml_edit import edit_model

    path: Path = tmp_path_factory.mktemp("checker") / "network.sige"
    image = {"image": np.zeros((1, 3, 16, 16), np.float32)}
    bundle = sige.export(Network().eval(), image, path, ["image"])
    model = edit_model(ir.load(bundle.path("edit.onnx")), bundle.manifest, {"16x16": 32}, 5)
    return model.SerializeToString()


@pytest.fixture
def model(written: bytes) -> Any:
    from coremltools.proto import Model_pb2

    return Model_pb2.Model.FromString(written)


def customs(model: Any) -> list[Any]:
    return [layer for layer in model.neuralNetwork.layers if layer.WhichOneof("layer") == "custom"]


def last(model: Any) -> Any:
    """The conv with the residual."""
    return customs(model)[-1]


def test_a_written_model_is_sound(model: Any) -> None:
    assert list(faults(model)) == []
    assert len(customs(model)) == 2
    assert last(model).custom.parameters["inputs"].stringValue == "rows residual"
    require_sound(model, "The model")


def duplicate_output(model: Any) -> None:
    first, second = customs(model)
    second.output[0] = first.output[0]


def output_named_as_an_input(model: Any) -> None:
    last(model).output[0] = model.description.input[0].name


def missing_input(model: Any) -> None:
    last(model).input[0] = "nothing"


def read_before_given(model: Any) -> None:
    layers = model.neuralNetwork.layers
    copied = [type(layer).FromString(layer.SerializeToString()) for layer in layers]
    del layers[:]
    layers.extend(reversed(copied))


def output_of_no_layer(model: Any) -> None:
    model.description.output[0].name = "elsewhere"


def unread_input(model: Any) -> None:
    added = model.description.input.add()
    added.CopyFrom(model.description.input[0])
    added.name = "unread"


def no_outputs(model: Any) -> None:
    del model.description.output[:]


def odd_bytes(model: Any) -> None:
    weight = last(model).custom.weights[0]
    weight.float16Value = weight.float16Value[:-1]


def too_few_weights(model: Any) -> None:
    weight = last(model).custom.weights[0]
    weight.float16Value = weight.float16Value[:-2]


def a_weight_less(model: Any) -> None:
    del last(model).custom.weights[1]


def two_kinds(model: Any) -> None:
    last(model).custom.weights[0].floatValue.append(1.0)


def no_weight_at_all(model: Any) -> None:
    last(model).custom.weights[0].Clear()


def float_weights(model: Any) -> None:
    weight = last(model).custom.weights[0]
    values = np.frombuffer(weight.float16Value, np.float16).astype(np.float32)
    weight.Clear()
    weight.floatValue.extend(values.tolist())


def wrong_class(model: Any) -> None:
    last(model).custom.className = "SIGEConvolution"


def no_class(model: Any) -> None:
    last(model).custom.className = ""


def parameter_of_another_type(model: Any) -> None:
    last(model).custom.parameters["group"].stringValue = "1"


def parameter_without_a_value(model: Any) -> None:
    last(model).custom.parameters["group"].Clear()


def unknown_parameter(model: Any) -> None:
    last(model).custom.parameters["groups"].intValue = 1


def missing_parameter(model: Any) -> None:
    del last(model).custom.parameters["alpha_in"]


def output_shape(model: Any) -> None:
    last(model).outputTensor[0].dimValue[1] = 5


def described_shape(model: Any) -> None:
    model.description.output[0].type.multiArrayType.shape[3] = 31


def input_shape(model: Any) -> None:
    model.description.input[0].type.multiArrayType.shape[1] = 4


def residual_of_another_width(model: Any) -> None:
    first, second = customs(model)
    second.input[1] = model.description.input[0].name
    second.inputTensor[1].dimValue[1] = 3
    del first


def group_that_does_not_divide(model: Any) -> None:
    last(model).custom.parameters["group"].intValue = 3


def channels_of_no_second_source(model: Any) -> None:
    last(model).custom.parameters["channels_2"].intValue = 2


def base_without_geometry(model: Any) -> None:
    last(model).custom.parameters["geometry"].stringValue = ""


def affine_twice(model: Any) -> None:
    parameters = last(model).custom.parameters
    parameters["weights"].stringValue = "weight bias scale"
    parameters["scale_name"].stringValue = "static.scale"
    last(model).custom.weights.add().float16Value = bytes(8)


def inputs_of_another_number(model: Any) -> None:
    last(model).custom.parameters["inputs"].stringValue = "rows"


def wide_texture(model: Any) -> None:
    for feature in (*model.description.input, *model.description.output):
        feature.type.multiArrayType.shape[3] = 16385


def kind_of_layer(model: Any) -> None:
    last(model).convolution.outputChannels = 4


def no_kind(model: Any) -> None:
    last(model).ClearField("custom")


def two_layers_of_one_name(model: Any) -> None:
    first, second = customs(model)
    second.name = first.name


def program(model: Any) -> None:
    model.mlProgram.version = 1


FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (duplicate_output, "which is given already"),
    (output_named_as_an_input, "which is given already"),
    (missing_input, "reads 'nothing', which nothing in front of it gives"),
    (read_before_given, "which nothing in front of it gives"),
    (output_of_no_layer, "output 'elsewhere' is given by no layer"),
    (unread_input, "input 'unread' is read by no layer"),
    (no_outputs, "it has no outputs"),
    (odd_bytes, "has weight 'weight' of 287 bytes, which is odd"),
    (too_few_weights, "has weight 'weight' of 143 values, its shape [9, 4, 4] has 144"),
    (a_weight_less, "has 1 weights and names 2"),
    (two_kinds, "as floatValue and float16Value, not as one kind"),
    (no_weight_at_all, "has weight 'weight' as nothing"),
    (float_weights, "as floatValue, not as float16Value"),
    (wrong_class, "has class 'SIGEConvolution', which is none of SIGEGather, SIGEConv"),
    (no_class, "has no class name"),
    (parameter_of_another_type, "has parameter 'group' as stringValue, not as int"),
    (parameter_without_a_value, "has parameter 'group' as nothing, not as int"),
    (unknown_parameter, "has a parameter 'groups', which its class does not know"),
    (missing_parameter, "lacks parameter 'alpha_in'"),
    (output_shape, "declares an output of [1, 5, 1, 32], it gives [1, 4, 1, 32]"),
    (described_shape, "is declared as [1, 4, 1, 31], its layer gives [1, 4, 1, 32]"),
    (input_shape, "declares inputs [[1, 3, 1, 32]], it is given [[1, 4, 1, 32]]"),
    (residual_of_another_width, "takes residual of [1, 4, 1, 32], it is given [1, 3, 1, 32]"),
    (group_that_does_not_divide, "has group 3, which does not divide its channels"),
    (channels_of_no_second_source, "has 2 channels_2 of 4 channels"),
    (base_without_geometry, "names only one of geometry and base"),
    (affine_twice, "has its scale both recorded and as a weight"),
    (inputs_of_another_number, "reads 2 tensors and names 1"),
    (wide_texture, "a texture has at most 8192 channels and 16384 pixels a side"),
    (kind_of_layer, "is of kind convolution, which the exporter does not write"),
    (no_kind, "has no kind"),
    (two_layers_of_one_name, "has no name of its own"),
    (program, "it is of type mlProgram: custom layers exist in neuralNetwork models alone"),
]


@pytest.mark.parametrize(("seed", "said"), FAULTS, ids=[seed.__name__ for seed, _ in FAULTS])
def test_a_fault_is_found(seed: Callable[[Any], None], said: str, model: Any) -> None:
    seed(model)
    found = list(faults(model))
    assert any(said in fault for fault in found), found
    with pytest.raises(sige.ExportError, match="no sound Core ML model"):
        require_sound(model, "The model")


def test_a_model_of_2_gib_is_refused(model: Any) -> None:
    (found,) = faults(model, size=BYTES)
    assert found == f"it takes {BYTES} bytes, and a model takes less than {BYTES} (2 GiB)"
    assert list(faults(model, size=BYTES - 1)) == []
