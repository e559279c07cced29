"""sige-deploy compare --against: engines and the original network."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from .conftest import Sige


@pytest.fixture
def faulty(onnx_file: Path, tmp_path: Path) -> Path:
    """The original network, but for one weight of its second convolution."""
    model = onnx.load(onnx_file)
    [weight] = [x for x in model.graph.initializer if x.name == "w1"]
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 1, 1] += 1
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    onnx.save(model, tmp_path / "faulty.onnx")
    return tmp_path / "faulty.onnx"


def test_engines_agree(cli: Sige, three: Path) -> None:
    close = ("--atol", "1e-5", "--rtol", "1e-5", "--threads", 1)
    done = cli("compare", three, "--against", "onnxruntime", *close)
    assert done.code == 0, done.err
    assert "The edit graph: onnxruntime cpu" in done.out and "picture" in done.out
    assert "values differ by no more than 1e-05 and 1e-05 of the value" in done.out
    layers = cli("compare", three, "--against", "onnxruntime", "--layers", "--json", *close).json()
    assert (layers["graph"], layers["theirs"], layers["first"]) == ("edit", "onnxruntime cpu", None)
    assert layers["tolerance"] == {"absolute": 1e-5, "relative": 1e-5}
    assert sum(value["operator"].startswith("Conv ") for value in layers["values"]) == 3
    assert all(value["within"] for value in layers["values"])


def test_recorded_state_and_edits_are_taken(cli: Sige, three: Path, files: Path, recorded: Path) -> None:
    edited = f"image={files / 'edited.png'}"
    done = cli(
        "compare", three, "--load", recorded, "-i", edited, "--against", "onnxruntime", "--graph", "record"
    )
    assert done.code == 0, done.err
    assert "The record graph" in done.out
    same = cli(
        "compare",
        three,
        "--load",
        recorded,
        "-i",
        f"image={files / 'original.png'}",
        "--against",
        "onnxruntime",
    )
    assert "differ in no pixel" in same.sentence()


def test_the_original_file_agrees_and_a_fault_is_found_at_its_layer(
    cli: Sige, three: Path, onnx_file: Path, faulty: Path
) -> None:
    words = ("compare", three, "--against", "onnxruntime", "--model")
    for extra in ((), ("--layers",)):
        done = cli(*words, onnx_file, *extra)
        assert done.code == 0, done.err
        assert "The dense graph" in done.out
    assert "'picture', by up to" in cli(*words, faulty).sentence()
    found = cli(*words, faulty, "--layers", "--json")
    assert found.json()["first"] == "y1"
    assert "the first of them 'y1' (Conv " in found.sentence()


def test_a_torch_network_with_other_inputs_is_refused(cli: Sige, three: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\n\ndef make():\n    return torch.nn.Identity()\n")
    done = cli("compare", three, "--against", "torch", "--model", f"{tmp_path / 'net.py'}:make")
    assert "Identity failed in torch" in done.sentence()


def test_errors(
    cli: Sige, three: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(*words: object) -> str:
        done = cli("compare", three, *words)
        assert done.code == 2, done.err
        return " ".join(done.err.replace("│", " ").split())

    assert "goes with --against onnxruntime, torch or tensorrt" in usage("--layers")
    assert "goes with --against" in usage("--atol", 1)
    assert "say with --model which network" in usage("--against", "torch")
    assert "an .onnx file goes with" in usage("--against", "torch", "--model", onnx_file)
    assert "an .onnx file goes with" in usage("--against", "onnxruntime", "--model", "a:b")
    assert "goes with --against torch or" in usage("--against", "tensorrt", "--model", onnx_file)
    words = ("--against", "onnxruntime", "--model", onnx_file)
    assert "has the graph dense alone" in usage(*words, "--graph", "edit")
    assert "do not give their layers" in usage("--against", "tensorrt", "--layers")
    assert "tensorflow" in usage("--against", "tensorflow")

    def sentence(*words: object) -> str:
        return cli("compare", three, *words).sentence()

    missing = tmp_path / "none.onnx"
    assert "there is no file" in sentence("--against", "onnxruntime", "--model", missing)
    assert "leave --checkpoint out" in sentence(*words, "--checkpoint", "w.pth")
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    assert "pip install 'sige-deploy[compare]'" in sentence("--against", "onnxruntime")
