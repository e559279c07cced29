"""Whole sessions of SIGEKit on Linux, against Python sessions.

Stand-ins for Core ML run the edit models of a small network layer by layer, the custom layers on the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import swift_package as swift
import torch
from coreml_edits import error
from safetensors.numpy import load_file, save_file
from swift_package import Script
from torch import Tensor, nn

import sige_deploy as sige
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.coreml.manifest import read_models
from sige_deploy.packaging import package

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("swift")
SIZE = 32
TOLERANCE = 4e-3  # of the range of an output: weights and bases are halves
Arrays = dict[str, np.ndarray]


class Small(nn.Module):
    """A skip over half the size, attention there, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.norm, self.heads = nn.GroupNorm(4, 16), nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Conv2d(28, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.first(image))
        y = self.down(x)
        tokens = self.norm(y).flatten(2).transpose(1, 2)
        q, k, v = (head(tokens).unflatten(2, (2, 8)).transpose(1, 2) for head in self.heads)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        y = y + attended.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, y.shape[2:])
        y = torch.nn.functional.interpolate(y, scale_factor=2, mode="nearest")
        return self.last(torch.cat([x, y], 1)) + image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from sige_deploy.exporters.coreml import build

    path = tmp_path_factory.mktemp("swift_session") / "small.sige"
    torch.manual_seed(0)
    sige.export(Small().eval(), {"image": np.zeros((1, 3, SIZE, SIZE), np.float32)}, path, ["image"])
    build(path)
    open_bundle(path).update_planner(0.9, gpu_dense_above=0.9)
    return open_bundle(path)


@pytest.fixture(scope="module")
def session_driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return swift.session_driver(tmp_path_factory.mktemp("swift_sessions"))


def write_models(bundle: Bundle, folder: Path) -> None:
    """The edit models as the driver reads them: layers as JSON, weights as tensors."""
    from sige_deploy.coreml.interpreter import read_model
    from sige_deploy.coreml.layers import OPS, read_layer

    for file in (bundle.root / "coreml" / "float16").glob("edit-*.mlmodel"):
        weights: Arrays = {}
        layers: list[dict[str, Any]] = []
        for message in read_model(file).neuralNetwork.layers:
            kind, names, parameters = message.WhichOneof("layer"), [], {}
            if kind == "custom":
                layer = read_layer(message)
                assert layer.class_name.removeprefix("SIGE") in OPS.values()
                kind, parameters = layer.class_name, dict(layer.parameters)
                for name, array in layer.weights.items():
                    names.append(f"{message.name}.{name}")
                    weights[names[-1]] = array
            elif kind == "loadConstantND":
                names.append(message.name)
                data = np.frombuffer(message.loadConstantND.data.float16Value, np.float16)
                weights[message.name] = data.reshape(tuple(message.loadConstantND.shape))
            layers.append(
                {
                    "kind": kind, "inputs": list(message.input), "output": message.output[0],
                    "parameters": parameters, "weights": names,
                }
            )  # fmt: skip
        (folder / f"{file.stem}.json").write_text(json.dumps(layers))
        save_file(
            {name: np.array(a, order="C") for name, a in weights.items()}, folder / f"{file.stem}.safetensors"
        )


class Dense:
    """Results of the dense pass for the driver, in the order in which it asks for them."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.names = {of: name for name, of in read_models(bundle)[1].record_outputs.items()}
        self.graph = onnxruntime.InferenceSession(bundle.path("record.onnx"))

    def add(self, image: np.ndarray) -> None:
        self.count += 1
        outputs = [node.name for node in self.graph.get_outputs()]
        results = dict(zip(outputs, self.graph.run(outputs, {"image": image})))
        arrays = {name: np.array(results[of], np.float32) for of, name in self.names.items()}
        save_file(arrays, self.folder / f"record-{self.count}.safetensors")


@pytest.fixture
def script(session_driver: list[str], bundle: Bundle, tmp_path: Path) -> Iterator[Script]:
    folder = tmp_path / "script"
    folder.mkdir()
    write_models(bundle, folder)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "caches")  # compiled models go there
    yield Script([*session_driver, str(folder), str(bundle.root)], folder)
    os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)


def changed(image: np.ndarray, seed: int, y: slice, x: slice) -> np.ndarray:
    result = image.copy()
    result[:, :, y, x] = noise(seed)[:, :, y, x]
    return result


def told(report: sige.Report, bundle: Bundle, bucket: int) -> str:
    """What the driver says of a report; the model is of no matter where there is none."""
    rows = ",".join(f"{id_}={count}" for id_, count in sorted(report.rows.items()))
    return f"ok {report.path} {report.active_fraction} {bucket} {rows} counted"


def test_records_edits_and_commits_as_python(script: Script, bundle: Bundle, tmp_path: Path) -> None:
    buckets = read_models(bundle)[1].buckets
    dense = Dense(bundle, script.folder)
    first, mask = noise(1), np.zeros((SIZE, SIZE), bool)
    mask[20:24, 3:9] = True
    second = changed(first, 2, slice(4, 9), slice(10, 17))
    third = changed(second, 3, slice(6, 28), slice(1, 20))
    wide = noise(4)
    expected, results = [], []

    with sige.open(bundle.root, threads=1) as session:

        def call(how: str, image: np.ndarray, edited: np.ndarray | None = None) -> None:
            arrays = {"image": image} | ({} if edited is None else {"mask": edited})
            given = {"image": image} if edited is None else {"image": image, "mask": edited}
            outputs = getattr(session, how)(**given)
            report = session.report
            fits = (k for k, b in enumerate(buckets) if all(b[id_] >= n for id_, n in report.rows.items()))
            if report.path in ("record", "dense"):
                dense.add(image)
            expected.append(told(report, bundle, next(fits) if report.path == "sparse" else -1))
            results.append((script.result(), outputs))
            script.add(how, script.file(**arrays), results[-1][0])

        def commit(image: np.ndarray | None = None) -> None:
            session.commit()
            if image is not None:  # after a dense edit
                dense.add(image)
            expected.append("ok committed")
            script.add("commit")

        call("record", first)
        call("edit", second)
        call("edit", first)
        call("edit", second)
        commit()
        call("edit", third)
        commit()
        call("edit", third)
        call("edit", wide, mask)
        commit()
        call("edit", wide)
        commit(wide)
        call("edit", changed(wide, 5, slice(0, 3), slice(29, 32)))
        call("dense", first)
        call("edit", changed(wide, 6, slice(8, 9), slice(8, 9)))
        commit()
    assert script.run() == expected
    paths = [line.split()[1] for line in expected if "committed" not in line]
    assert set(paths) == {"record", "sparse", "dense", "reuse"}
    assert {line.split()[3] for line in expected if " sparse " in line} >= {"0", "1"}
    for result, outputs in results:
        made = swift.read(result)
        assert made.keys() == outputs.keys()
        for name, want in outputs.items():
            assert made[name].dtype == want.dtype and made[name].shape == want.shape
            assert error(made[name], want) < TOLERANCE, name


def test_calls_that_fail_leave_the_session_as_it_was(script: Script, bundle: Bundle) -> None:
    dense = Dense(bundle, script.folder)
    first = noise(1)
    second = changed(first, 2, slice(4, 9), slice(10, 17))
    dense.add(first)
    good = script.file(image=second)
    script.add("edit", good, script.result())
    script.add("commit")
    script.add("record", script.file(image=first), script.result())
    script.add("commit")
    script.add("edit", good, one := script.result())
    script.add("edit", script.file(image=first * np.nan), script.result())
    script.add("record", script.file(image=first[:, :2]), script.result())
    script.add("edit", script.file(image=second, mask=np.zeros((3, 3), bool)), script.result())
    script.add("again")
    script.add("commit")
    script.add("edit", good, two := script.result())
    script.add("close")
    script.add("edit", good, script.result())
    script.add("again")
    answers = script.run()
    early = "StateError there is no recorded image to edit; call record or load first."
    assert answers[:2] == [early, early]
    assert answers[3] == "StateError there is no edit to commit; call edit first."
    assert answers[5] == "InputError input 'image' holds NaN or infinity; every value must be finite."
    assert answers[6].startswith("InputError input 'image' has shape [1, 2, 32, 32]; expected float32")
    assert answers[7].startswith("InputError mask has shape [3, 3]; expected a bool array of shape [32, 32]")
    assert answers[8].startswith("StateError a session of this bundle is open in this process already")
    assert answers[9] == "ok committed"
    assert answers[10].startswith("ok reuse 0.0 -1 ")
    np.testing.assert_array_equal(swift.read(one)["output"], swift.read(two)["output"])
    assert answers[12] == "StateError the session is closed; open the bundle again."
    assert answers[13] == "ok opened"


@pytest.mark.parametrize("wrong", [False, True])
def test_the_self_test_of_a_package_passes_and_finds_what_is_wrong(
    script: Script, bundle: Bundle, tmp_path: Path, wrong: bool
) -> None:
    package(bundle.root, tmp_path / "package", "swift")
    golden = tmp_path / "package/Sources/SIGEBundle/selftest.safetensors"
    arrays = load_file(golden)
    dense = Dense(bundle, script.folder)
    # The record; of dense timing one call before and one timed; the record before the timed edits.
    for part in ("recorded", "edited", "edited", "recorded"):
        dense.add(arrays[f"{part}.input.image"])
    if wrong:
        arrays["edited.output.output"][0, 0, 16, 16] += 1
        save_file(arrays, golden)
    script.add("close")
    script.add("selftest", golden)
    answer = script.run()[1]
    assert answer.startswith(f"ok {str(not wrong).lower()} false true ")
    assert "edit 'output': " in answer and ("WRONG" in answer) == wrong
    assert "encode did not run" in answer
    assert "edit: sparse, " in answer


def test_models_that_do_not_fit_are_refused_as_in_python(
    swift_script: Script, bundle: Bundle, tmp_path: Path
) -> None:
    folders = []
    for how in ("good", "none", "altered", "missing", "newer", "other", "not JSON", "invalid"):
        copy = Path(shutil.copytree(bundle.root, tmp_path / how))
        models = copy / "coreml" / "float16"
        data = json.loads((models / "coreml.json").read_text())
        if how == "none":
            (models / "coreml.json").unlink()
        elif how == "altered":
            (models / "edit-0.mlmodel").write_bytes(b"other")
        elif how == "missing":
            (models / "edit-0.mlmodel").unlink()
        elif how != "good":
            changes = {
                "newer": {"schema_version": 9},
                "other": {"bundle": "0" * 64},
                "invalid": {"context": -1},
            }
            text = json.dumps(data | changes.get(how, {}))
            (models / "coreml.json").write_text(text if how in changes else text[:-1])
        folders.append(copy)
    expected = []
    for folder in folders:
        swift_script.add("models", folder)
        try:
            manifest = read_models(open_bundle(folder))[1]
            expected.append(f"ok {manifest.context} {len(manifest.buckets)} {folder}")
        except sige.BundleError as error:
            expected.append(f"BundleError {error}")
    answers = swift_script.run()
    # The parser's reason is its own; a model is named by its path.
    expected[0] = expected[0].replace(str(folders[0]), f"{folders[0]}/coreml/float16/record.mlpackage")
    answers[6], expected[6] = (text.partition(" (")[0] for text in (answers[6], expected[6]))
    assert answers == expected
    assert len(set(expected)) == len(expected)
