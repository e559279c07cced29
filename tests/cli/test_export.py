"""sige-deploy export and inspect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import sige_deploy as sige
from sige_deploy.models.gaugan import GauGAN

from .conftest import Sige, write_network


def test_export_takes_the_shapes_of_the_file(cli: Sige, onnx_file: Path, tmp_path: Path) -> None:
    done = cli("export", onnx_file, tmp_path / "b", "--spatial", "image")
    assert done.code == 0, done.err
    assert "of caches when recorded" in done.out
    manifest = sige.open_bundle(tmp_path / "b").manifest
    assert manifest.name == "three"
    image = manifest.inputs[0]
    assert (image.name, image.shape, image.role) == ("image", [1, 3, 32, 32], "spatial")


def test_export_options_reach_the_manifest(cli: Sige, onnx_file: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"eps": 0.5, "dilate": 3}))
    options = (
        "--spatial image --dilate 2 --threshold 0.4 --level-dilate 32x32=2 --granularity 2 "
        "--statistics fresh --precision float16 --dense-above 0.7"
    ).split()
    done = cli("export", onnx_file, tmp_path / "b", "--config", tmp_path / "c.json", *options)
    assert done.code == 0, done.err
    manifest = sige.open_bundle(tmp_path / "b").manifest
    assert manifest.policy.model_dump() == {
        "eps": 0.5, "dilate": 2, "threshold": 0.4, "statistics": "fresh"
    }  # fmt: skip
    assert (manifest.levels[0].dilation, manifest.levels[0].granularity) == (2, 2)
    assert manifest.planner.dense_above == 0.7
    assert (manifest.precision, manifest.inputs[0].dtype) == ("float16", "float16")
    assert f"an edit makes {sum(manifest.launches.values())} launches" in done.out


def test_export_at_given_shapes(cli: Sige, tmp_path: Path) -> None:
    write_network(tmp_path / "free.onnx", batch="N")
    words = ["export", tmp_path / "free.onnx", tmp_path / "b", "--spatial", "image"]
    assert "no fixed shape; say which, e.g. --input image=" in cli(*words).sentence()
    done = cli(*words, "-i", "image=2x3x32x32:float32")
    assert done.code == 0, done.err
    assert sige.open_bundle(tmp_path / "b").manifest.inputs[0].shape == [2, 3, 32, 32]


def test_export_of_a_checkpoint(cli: Sige, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GauGAN(semantic_channels=3, image_size=(256, 512), ngf=2, spade_hidden=2)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    done = cli("export", "gaugan", tmp_path / "b", "--checkpoint", tmp_path / "net.pth")
    assert done.code == 0, done.err
    manifest = sige.open_bundle(tmp_path / "b").manifest
    assert manifest.inputs[0].shape == [1, 3, 256, 512] and manifest.spatial()[0].name == "label"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("absent.onnx", "OUT", "--spatial", "image"), "there is no model 'absent.onnx'"),
        (("FILE", "OUT", "--spatial", "picture"), "Spatial input 'picture'"),
        (("FILE", "OUT", "--spatial", "image", "-i", "x=1:float32"), "has no input 'x'"),
        (("FILE", "OUT", "--spatial", "image", "-i", "image=1x3x32x32:floaty"), "'floaty' is no data type"),
        (("FILE", "OUT", "--spatial", "image", "--dilate", "-1"), "dilate must be a whole number"),
        (("FILE", "OUT", "--spatial", "image", "--statistics", "old"), "statistics must be"),
        (("FILE", "OUT", "--spatial", "image", "--precision", "int8"), "precision must be"),
        (("FILE", "OUT", "--spatial", "image", "--config", "FILE"), "give a JSON file"),
        (("FILE", "OUT", "--spatial", "image", "--config", "LIST"), "must be a JSON object"),
        (("FILE", "FILE", "--spatial", "image"), "is a file; a bundle is a folder"),
        (("LIST", "OUT", "--spatial", "image"), "is not a readable ONNX model"),
        (("gaugan", "OUT", "--checkpoint", "absent.pth"), "There is no checkpoint file absent.pth"),
        (("street", "OUT", "--checkpoint", "absent.safetensors"), "There is no checkpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_export_errors(cli: Sige, onnx_file: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "list.json").write_text("[1]")
    known = {"FILE": onnx_file, "OUT": tmp_path / "b", "LIST": tmp_path / "list.json"}
    assert said in cli("export", *(known.get(word, word) for word in words)).sentence()
    assert not (tmp_path / "b").exists()


def test_inspect_shows_everything(cli: Sige, three: Path) -> None:
    done = cli("inspect", three)
    assert done.code == 0, done.err
    for shown in (
        "image",
        "gain",
        "picture",
        "32x32",
        "100 %",
        "edit.onnx",
        "50 % of the work",
        "float32",
        "launches (",
        "onnx ",
    ):
        assert shown in done.out, shown


def test_inspect_as_json(cli: Sige, three: Path) -> None:
    shown = cli("inspect", three, "--json").json()
    manifest = sige.open_bundle(three).manifest
    assert shown["bundle_id"] == manifest.bundle_id
    assert shown["cache_bytes"] == sum(np.prod(c.shape) * np.dtype(c.dtype).itemsize for c in manifest.caches)
    assert [level["id"] for level in shown["levels"]] == ["32x32"]


def test_inspect_shows_islands(cli: Sige, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("CumSum", ["image", "axis"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["picture"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 16, 16]) for n in ("image", "picture")]
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [3])
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "island.onnx")
    assert cli("export", tmp_path / "island.onnx", tmp_path / "b", "--spatial", "image").code == 0
    out = cli("inspect", tmp_path / "b").out
    assert "Dense islands" in out and "CumSum" in out


def test_inspect_of_a_damaged_bundle(cli: Sige, three_copy: Path) -> None:
    weights = three_copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "truncated" in cli("inspect", three_copy).sentence()
