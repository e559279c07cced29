"""Engines and the original network held against one another: what agrees, and where a fault is found."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import rewrite_checksums
from torch import nn

import sige_deploy as sige
from sige_deploy.comparator import Agreement, Tolerance, compare_layers, compare_outputs, compare_values
from sige_deploy.devices.host import HostDevice
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.layers import OnnxRuntimeSide, reference
from sige_deploy.original import TorchOriginal, load_module
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.workload import make_edit, make_inputs

CLOSE = Tolerance(1e-5, 1e-5)
#: Of Blocks, a module that reads no other file.
SOURCE = '''
import torch
from torch import nn


class Blocks(nn.Module):
    """image [1, 3, 24, 32] -> picture and its mean."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, image):
        x = torch.relu(self.first(image))
        x = torch.tanh(self.second(x))
        picture = self.last(x)
        return {"picture": picture, "mean": x.mean()}


def make():
    return Blocks()


def fail():
    raise OSError("no such checkpoint")


text = lambda: "no module"
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "blocks.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def module(source: Path) -> nn.Module:
    return load_module(f"{source}:make")


@pytest.fixture(scope="module")
def path(module: nn.Module, source: Path) -> Path:
    """The exported bundle; not to be changed."""
    folder = source.with_name("blocks.sige")
    sige.export(module, {"image": torch.zeros(1, 3, 24, 32)}, folder, ["image"])
    return folder


@pytest.fixture
def bundle(path: Path) -> sige.Bundle:
    return sige.open_bundle(path)


@pytest.fixture
def edit(bundle: sige.Bundle) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(recorded, edited) inputs."""
    recorded = make_inputs(bundle.manifest)
    return recorded, make_edit(bundle.manifest, recorded, 0.05, "square")[0]


def with_fault(path: Path, copy: Path, weight: str) -> sige.Bundle:
    """A copy whose checksums fit, with one weight altered."""
    shutil.copytree(path, copy)
    file = copy / "weights.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8:start])[weight]["data_offsets"]
    value = np.frombuffer(data, np.float32, 1, start + begin)
    data[start + begin : start + begin + 4] = (value + 1).astype(np.float32).tobytes()
    file.write_bytes(data)
    rewrite_checksums(copy)
    return sige.open_bundle(copy)


def test_values_are_compared_element_by_element() -> None:
    inf = math.inf
    ours: dict[str, np.ndarray] = {
        "equal": np.ones((2, 3), np.float16),
        "close": np.array([1.0, 100.0], np.float32),
        "far": np.array([1.0, 2.0], np.float32),
        "shape": np.zeros((2, 1), np.float32),
        "nan": np.array([1.0, np.nan], np.float32),
        "masked": np.array([-inf, 1.0], np.float32),
        "infinite": np.array([-inf, 1.0], np.float32),
        "flags": np.array([True, False]),
        "counts": np.array([1, 2]),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.float32(3).reshape(()),
    }
    theirs = {
        **ours,
        "equal": np.ones((2, 3), np.float32),
        "close": np.array(
            [1.005, 100.5], np.float32
        ),  # the one in absolute terms, the other in relative ones
        "far": np.array([1.0, 2.5], np.float32),
        "shape": np.zeros((1, 2), np.float32),
        "infinite": np.array([inf, 1.0], np.float32),
        "flags": np.array([True, True]),
        "counts": np.array([1, 3]),
    }
    values = {v.name: v for v in compare_values(ours, theirs, Tolerance(0.01, 0.01), {"far": "Conv far"})}
    assert list(values) == list(ours)
    beyond = {name for name, value in values.items() if not value.within}
    assert beyond == {"far", "shape", "nan", "infinite", "flags", "counts"}
    far = values["far"]
    assert (far.operator, far.max_absolute, far.mean_absolute) == ("Conv far", 0.5, 0.25)
    assert far.max_relative == pytest.approx(0.2)
    for name in ("shape", "nan", "infinite"):
        assert values[name].max_absolute == inf
    assert values["masked"].max_absolute == values["one"].max_absolute == 0


def test_outputs_of_engines_agree(bundle: sige.Bundle, edit: tuple[dict, dict]) -> None:
    ours = OnnxRuntime(bundle, "cpu", 1)
    for graph, names in {
        "edit": {"picture", "mean"},
        "record": {"picture", "mean"},
        "dense": {"picture", "mean"},
    }.items():
        seen = compare_outputs(bundle, ours, reference(bundle, 1), graph, *edit, tolerance=CLOSE)  # type: ignore[arg-type]
        assert seen.first is None
        found = {value.name for value in seen.values}
        caches = {f"cache.{c.name}" for c in bundle.manifest.caches if c.rows}
        assert found == (names if graph == "dense" else names | caches)
        assert seen.theirs == "onnxruntime cpu"


def test_a_fault_in_an_engine_is_found_in_its_cache(bundle: sige.Bundle, edit: tuple[dict, dict]) -> None:
    cache = next(c for c in bundle.manifest.caches if c.rows and c.name != "base.image")

    class Faulty:
        """The reference, but for the rows of one cache."""

        def __init__(self) -> None:
            self.inner = reference(bundle, 1)
            self.name, self.record, self.dense = "faulty", self.inner.record, self.inner.dense
            self.edit_inputs, self.close = self.inner.edit_inputs, self.inner.close

        def device(self) -> HostDevice:
            return HostDevice(bundle, self)

        def edit(
            self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
        ) -> Mapping[str, np.ndarray]:
            result = dict(self.inner.edit(feeds, caches, outputs))
            result[cache.rows or ""] = result[cache.rows or ""] + np.float32(0.25)
            return result

    seen = compare_outputs(bundle, Faulty(), reference(bundle, 1), "edit", *edit)
    assert [v.name for v in seen.values if not v.within] == [f"cache.{cache.name}"]
    assert seen.first is not None and seen.first.max_absolute == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("graph", ["edit", "record", "dense"])
def test_layers_of_engines_agree(bundle: sige.Bundle, edit: tuple[dict, dict], graph: str) -> None:
    sides = OnnxRuntimeSide.of(bundle, "cpu", 1), OnnxRuntimeSide("onnxruntime cpu", 1)
    seen = compare_layers(bundle, *sides, graph, *edit, tolerance=CLOSE)  # type: ignore[arg-type]
    assert seen.first is None
    convs = [value for value in seen.values if value.operator.startswith("Conv ")]
    assert len(convs) == 3
    assert seen.ours == OnnxRuntime(bundle, "cpu", 1).name


def test_torch_agrees_and_a_fault_is_found_at_its_layer(
    path: Path, bundle: sige.Bundle, module: nn.Module, edit: tuple[dict, dict], tmp_path: Path
) -> None:
    original, side = TorchOriginal(bundle, module), OnnxRuntimeSide("onnxruntime cpu", 1)

    def compared(bundle: sige.Bundle) -> tuple[Agreement, Agreement]:
        outputs = compare_outputs(bundle, reference(bundle, 1), original, "dense", *edit)
        return outputs, compare_layers(bundle, side, original, "dense", *edit)

    outputs, layers = compared(bundle)
    assert outputs.first is None and layers.first is None
    assert [value.name for value in outputs.values] == ["picture", "mean"]
    assert [v.name for v in layers.values] == ["conv2d", "relu", "conv2d_1", "tanh", "picture", "mean"]
    assert 0 < layers.values[0].max_absolute < 1e-5

    outputs, layers = compared(with_fault(path, tmp_path / "copy", "second.weight.taps"))
    assert outputs.first is not None and outputs.first.name == "picture"
    assert layers.first is not None
    assert (layers.first.name, layers.first.operator.split()[0]) == ("conv2d_1", "Conv")
    assert [value.within for value in layers.values[:2]] == [True, True]


def test_a_halved_bundle_is_held_against_float32(module: nn.Module, tmp_path: Path) -> None:
    config = sige.SparseConfig(precision="float16")
    example = {"image": torch.zeros(1, 3, 24, 32)}
    bundle = sige.export(module, example, tmp_path / "half", ["image"], config)
    inputs = make_inputs(bundle.manifest)
    assert inputs["image"].dtype == np.float16
    seen = compare_outputs(
        bundle, reference(bundle, 1), TorchOriginal(bundle, module), "dense", inputs, inputs
    )
    assert seen.tolerance == Tolerance(2e-2, 2e-2) and seen.first is None
    assert seen.values[0].max_absolute > 1e-5


def test_errors(
    bundle: sige.Bundle, edit: tuple[dict, dict], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, _ = edit
    ours, side = reference(bundle, 1), OnnxRuntimeSide("onnxruntime cpu", 1)
    for compare in (
        lambda: compare_outputs(bundle, ours, ours, "edit", recorded, recorded),
        lambda: compare_layers(bundle, side, side, "edit", recorded, recorded),
    ):
        with pytest.raises(InputError, match=r"differ in no pixel"):
            compare()
    one = TorchOriginal(bundle, nn.Identity())
    with pytest.raises(RuntimeFailure, match=r"Identity failed in torch .*; give the exported module\.$"):
        one.outputs(recorded)
    wrong = nn.Identity()
    wrong.forward = lambda image: image  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"Identity has 1 outputs, the bundle has 2 \(picture, mean\)"):
        TorchOriginal(bundle, wrong).outputs(recorded)
    for text, reason in {
        "blocks": "'blocks' names no network",
        f"{source}:other": "has no attribute 'other'",
        f"{source}:fail": "no such checkpoint",
        f"{source}:text": "returned a str",
        "no_such_package:make": "No module named 'no_such_package'",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            load_module(text)
        assert "give MODULE:FACTORY or FILE.py:FACTORY" in str(caught.value)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(RuntimeFailure, match=r"needs Polygraphy; run pip install 'sige-deploy\[compare\]'"):
        compare_outputs(bundle, ours, ours, "dense", *edit)
