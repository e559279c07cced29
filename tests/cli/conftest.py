"""A network of three convolutions as .onnx, its bundle, a recorded state, pictures; the command as a call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import sige_deploy as sige
from sige_deploy.cli.app import app

SIZE = 32


@dataclass(frozen=True)
class Done:
    """What a command printed and how it left."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one line that an error prints."""
        assert self.code == 1, self.err
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert self.err.rstrip().endswith(".")
        assert "Traceback" not in self.err
        return self.err.strip()

    def json(self) -> dict:
        return json.loads(self.out)


Sige = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Sige:
    """Runs the command in this process."""
    monkeypatch.delenv("SIGE_DEBUG", raising=False)

    def run(*words: object) -> Done:
        result = CliRunner().invoke(app, [str(word) for word in words])
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


def write_network(path: Path, batch: int | str = 1) -> None:
    """image [1, 3, 32, 32] and gain [1, 3, 1, 1] -> picture, in [-1, 1]."""
    rng = np.random.default_rng(3)
    widths = (3, 8, 8, 3)
    weights = [
        rng.standard_normal((o, i, 3, 3)).astype(np.float32) / (3 * i**0.5) for i, o in pairwise(widths)
    ]
    nodes = [helper.make_node("Mul", ["image", "gain"], ["x0"])]
    for i in range(3):
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"y{i}"], pads=[1, 1, 1, 1]))
        act, out = ("Tanh", "picture") if i == 2 else ("Relu", f"x{i + 1}")
        nodes.append(helper.make_node(act, [f"y{i}"], [out]))
    shape = [batch, 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "three",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1, 3, 1, 1]),
        ],
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "three.onnx"
    write_network(path)
    return path


@pytest.fixture(scope="session")
def three(onnx_file: Path) -> Path:
    """The exported bundle; not to be changed."""
    examples = {
        "image": np.zeros((1, 3, SIZE, SIZE), np.float32),
        "gain": np.ones((1, 3, 1, 1), np.float32),
    }
    path = onnx_file.with_name("three.sige")
    sige.export(onnx_file, examples, path, ["image"])
    return path


@pytest.fixture
def three_copy(three: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(three, tmp_path / "copy.sige"))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with original.png, edited.png, mask.png, small.png."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(5)
    image = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "original.png")
    image[8:14, 10:20] = 255 - image[8:14, 10:20]
    Image.fromarray(image).save(folder / "edited.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:14, 10:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(image[:16]).save(folder / "small.png")
    return folder


@pytest.fixture(scope="session")
def recorded(three: Path, files: Path) -> Path:
    """The state that `record` saves for original.png and gain 1."""
    path = files / "recorded.safetensors"
    done = CliRunner().invoke(
        app,
        ["record", str(three), "-i", f"image={files / 'original.png'}", "-i", "gain=1", "--save", str(path)],
    )
    assert done.exit_code == 0, done.stderr
    return path
