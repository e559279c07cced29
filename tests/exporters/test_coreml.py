"""Core ML models of three networks: written, checked, run in numpy, and compared with ONNX Runtime's edit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_unet import INPUTS, attention_unet
from coreml_edits import Edit, error
from plugins.metal.kernels import MetalKernels
from plugins.metal.layers import metal_layers
from torch import nn

import sige_deploy as sige
from sige_deploy.bundle import open_bundle
from sige_deploy.coreml.checker import PIXELS, faults
from sige_deploy.coreml.interpreter import read_model
from sige_deploy.coreml.manifest import read_models
from sige_deploy.coreml.numpy_layers import NUMPY, Implementation
from sige_deploy.coreml.program import Package, ProgramInterpreter
from sige_deploy.demo import load_street
from sige_deploy.exporters import coreml, coreml_buckets
from sige_deploy.exporters.coreml import Built, build
from sige_deploy.exporters.coreml_edit import edit_model
from sige_deploy.models.ddpm import church256

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("coreml")
TOLERANCE = 2e-3  # of the range of an output


def export(module: nn.Module, inputs: dict[str, Any], spatial: str, path: Path, **config: Any) -> sige.Bundle:
    torch.manual_seed(0)
    return sige.export(module.eval(), inputs, path, [spatial], sige.SparseConfig(**config))


def denoising(bundle: sige.Bundle) -> Edit:
    """An edit of a box of noise."""
    shape = bundle.manifest.spatial()[0].shape
    rng = np.random.default_rng(0)
    before, after = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    mask = np.zeros(shape[2:], bool)
    height, width = shape[2:]
    mask[height // 3 :, width // 3 :][:4, :4] = True
    step = np.array([500])
    return Edit(bundle, {"sample": before, "timestep": step}, {"sample": after, "timestep": step}, mask)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coreml")


@pytest.fixture(scope="module")
def unet(scratch: Path) -> Built:
    export(attention_unet(), INPUTS, "sample", scratch / "unet.sige")
    return build(scratch / "unet.sige")


def bundle_of(built: Built) -> sige.Bundle:
    return open_bundle(built.folder.parents[1])


@pytest.fixture(scope="module", params=["numpy", "metal"])
def layers(request: pytest.FixtureRequest) -> Mapping[str, Implementation]:
    """The custom layers: the ops' definitions, and the Metal kernels compiled for the CPU."""
    if request.param == "numpy":
        return NUMPY
    if not shutil.which("g++"):
        pytest.skip("needs g++ 12 to compile plugins/kernels/metal as C++")
    return metal_layers(MetalKernels())


def check_edit(edit: Edit, built: Built, layers: Mapping[str, Implementation] = NUMPY) -> None:
    k = edit.bucket(built.manifest.buckets)
    got = edit.run(built.folder / f"edit-{k}.mlmodel", built.manifest.buckets[k], layers)
    assert got.keys() == edit.expected.keys()
    for name, expected in edit.expected.items():
        assert error(got[name], expected) < TOLERANCE, name


def test_a_small_attention_unet(unet: Built, layers: Mapping[str, Implementation]) -> None:
    edit = denoising(bundle_of(unet))
    check_edit(edit, unet, layers)
    assert {layer.class_ for layer in unet.manifest.layers} == {"SIGEConv", "SIGEAttention"}
    # The largest model gives the same as the smallest.
    last = len(unet.manifest.buckets) - 1
    assert edit.bucket(unet.manifest.buckets) < last
    got = edit.run(unet.folder / f"edit-{last}.mlmodel", unet.manifest.buckets[last], layers)
    assert error(got["rows.output"], edit.expected["rows.output"]) < TOLERANCE


def test_the_record_model_gives_what_onnx_runtime_gives(unet: Built) -> None:
    edit, manifest = denoising(bundle_of(unet)), unet.manifest
    assert manifest.record == "record.mlpackage" and manifest.record_refused is None
    interpreter = ProgramInterpreter(Package(unet.folder / manifest.record))
    outputs = interpreter.predict({name: edit.recorded[of] for name, of in manifest.record_inputs.items()})
    caches = {cache.name for cache in edit.bundle.manifest.caches}
    assert set(manifest.record_outputs.values()) == caches | {"output"}
    for name, of in manifest.record_outputs.items():
        assert outputs[name].shape == edit.record[of].shape
        assert error(outputs[name], edit.record[of]) < 1e-5, of


@pytest.fixture(scope="module")
def street(scratch: Path) -> tuple[Edit, Built]:
    from sige_deploy.street.demo_scene import demo_scene, one_hot

    label, edits = demo_scene()
    _, changed = edits[0]
    bundle = export(load_street(), {"label": one_hot(label)}, "label", scratch / "street.sige")
    edit = Edit(bundle, {"label": one_hot(label)}, {"label": one_hot(changed)}, label != changed)
    return edit, build(bundle)


def test_the_street(street: tuple[Edit, Built], layers: Mapping[str, Implementation]) -> None:
    edit, built = street
    check_edit(edit, built, layers)
    assert {layer.class_ for layer in built.manifest.layers} == {"SIGEConv", "SIGEGather"}
    assert built.manifest.record == "record.mlpackage"


@pytest.fixture(scope="module")
def ddpm(scratch: Path) -> Iterator[tuple[Edit, Path, dict[str, int]]]:
    """An edit, the model of the smallest bucket, and this."""
    import onnx_ir as ir

    inputs = {"sample": np.zeros((1, 3, 256, 256), np.float32), "timestep": np.array([500])}
    torch.manual_seed(0)
    edit = denoising(export(church256(), inputs, "sample", scratch / "ddpm.sige"))
    rows = coreml_buckets.buckets(edit.bundle.manifest)[0]
    model = edit_model(ir.load(edit.bundle.path("edit.onnx")), edit.bundle.manifest, rows, 1)
    assert list(faults(model)) == []
    path = scratch / "ddpm.mlmodel"
    path.write_bytes(model.SerializeToString())
    yield edit, path, rows
    shutil.rmtree(edit.bundle.root)
    path.unlink()


@pytest.mark.xdist_group("coreml-ddpm")
def test_ddpm_256(ddpm: tuple[Edit, Path, dict[str, int]], layers: Mapping[str, Implementation]) -> None:
    edit, path, rows = ddpm
    got = edit.run(path, rows, layers)
    assert error(got["rows.output"], edit.expected["rows.output"]) < TOLERANCE


def test_the_manifest_says_what_a_host_needs(unet: Built) -> None:
    bundle = bundle_of(unet)
    folder, manifest = read_models(bundle)
    assert (folder, manifest) == (unet.folder, unet.manifest)
    assert folder == bundle.root / "coreml" / "float16"
    model = read_model(folder / "edit-0.mlmodel")
    assert [x.name for x in model.description.input] == [x.name for x in manifest.inputs]
    assert [x.name for x in model.description.output] == [x.name for x in manifest.outputs]
    assert model.specificationVersion == 4
    caches = {cache.name: cache for cache in bundle.manifest.caches}
    assert manifest.arrays and all(caches[x.name].shape == x.shape for x in manifest.arrays)
    assert manifest.active == ["16x16"]
    data = json.loads((folder / "coreml.json").read_text())
    conv = next(layer for layer in data["layers"] if layer["class"] == "SIGEConv")
    assert conv["weights"] == ["weight", "bias"] and "rows" not in conv["parameters"]
    sizes = [sum(bucket.values()) for bucket in manifest.buckets]
    assert sizes == sorted(sizes) and manifest.buckets[-1] == {"32x32": 1024, "16x16": 256}


def test_models_that_were_altered_or_are_of_another_bundle_are_refused(unet: Built, tmp_path: Path) -> None:
    root = shutil.copytree(bundle_of(unet).root, tmp_path / "copy.sige")
    path = root / "coreml" / "float16" / "edit-0.mlmodel"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(sige.BundleError, match=r"edit-0\.mlmodel' was altered or cut short; build"):
        read_models(open_bundle(root))
    manifest = json.loads((path.parent / "coreml.json").read_text())
    (path.parent / "coreml.json").write_text(json.dumps({**manifest, "bundle": "0" * 64}))
    with pytest.raises(sige.BundleError, match="built from another bundle"):
        read_models(open_bundle(root))
    shutil.rmtree(path.parent)
    with pytest.raises(sige.BundleError, match="has no Core ML models; build"):
        read_models(open_bundle(root))


def test_a_build_that_fails_leaves_what_was_there(unet: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(unet)

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "record model":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(bundle, progress=interrupt)
    assert read_models(bundle)[1] == unet.manifest
    assert [path.name for path in unet.folder.parent.iterdir()] == ["float16"]
    monkeypatch.setattr(coreml.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(sige.RuntimeFailure, match=r"pip install 'sige-deploy\[coreml\]'"):
        build(bundle)


class Small(nn.Module):
    """Convs of one image, as wide and high as asked."""

    def __init__(self, width: int = 4, factor: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        with torch.no_grad():
            self.first.weight *= factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(image)))


class Unknown(Small):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(torch.atan(self.first(image)))


def test_a_new_export_drops_the_models(tmp_path: Path) -> None:
    image = {"image": np.zeros((1, 3, 16, 16), np.float32)}
    bundle = export(Small(), image, "image", tmp_path / "small.sige")
    built = build(bundle)
    assert built.manifest.files.keys() >= {"edit-0.mlmodel"} and built.folder.is_dir()
    assert open_bundle(bundle.root).id == bundle.id
    again = export(Small(), image, "image", bundle.root)
    assert not (again.root / "coreml").exists()


@pytest.mark.parametrize(
    ("module", "size", "said"),
    [
        (
            Small(),
            (2, 16, 16),
            r"its input 'rows.image' has shape \[2, P_16x16, 3\]; layers take one image's",
        ),
        (Small(factor=1e9), (1, 16, 16), r"its constant '.*weight.*' has values that float16 cannot hold"),
        (Unknown(), (1, 16, 16), r"\(Atan\) of the edit graph: there is no layer for this op"),
        (Small(8196), (1, 8, 8), r"8196 channels of \d+ pixels; a Metal texture has at most 8192 channels"),
    ],
    ids=["images", "overflow", "op", "channels"],
)
def test_what_core_ml_cannot_run_is_refused(
    module: nn.Module, size: tuple[int, int, int], said: str, tmp_path: Path
) -> None:
    batch, *sides = size
    inputs = {"image": np.zeros((batch, 3, *sides), np.float32)}
    bundle = export(module, inputs, "image", tmp_path / "refused.sige")
    with pytest.raises(sige.ExportError, match=said):
        build(bundle)
    assert not (bundle.root / "coreml").exists()


def test_weights_of_2_gib_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = export(Small(), {"image": np.zeros((1, 3, 16, 16), np.float32)}, "image", tmp_path / "b.sige")
    monkeypatch.setattr("sige_deploy.exporters.coreml_edit.BYTES", 300)  # in place of weights so large
    with pytest.raises(sige.ExportError, match="weights take 2 GiB or more in float16"):
        build(bundle)


def test_no_model_is_for_more_rows_than_a_texture_is_wide(tmp_path: Path) -> None:
    image = {"image": np.zeros((1, 3, 160, 160), np.float32)}  # 25600 pixels
    bundle = export(Small(), image, "image", tmp_path / "large.sige")
    sizes = coreml_buckets.buckets(bundle.manifest)
    assert PIXELS / 2 < max(sizes[-1].values()) <= PIXELS
    wide = bundle.manifest.model_copy(
        update={"levels": [x.model_copy(update={"granularity": 160}) for x in bundle.manifest.levels]}
    )
    with pytest.raises(sige.ExportError, match="even the smallest has more than 16384 rows"):
        coreml_buckets.buckets(wide)


class Styled(Small):
    def forward(self, image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * torch.atan(style)


def test_a_record_that_core_ml_cannot_run_is_said(tmp_path: Path) -> None:
    inputs = {"image": np.zeros((1, 3, 16, 16), np.float32), "style": np.ones((1, 3, 1, 1), np.float32)}
    built = build(export(Styled(), inputs, "image", tmp_path / "styled.sige"))
    assert built.manifest.record is None and "edit-0.mlmodel" in built.manifest.files
    said = built.manifest.record_refused
    assert said is not None and said.endswith(
        "(Atan) of the record graph: there is no translation of this op"
    )


class Levels(nn.Module):
    """Half the size and back."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small = torch.sigmoid(self.down(image))
        return self.up(nn.functional.interpolate(small, scale_factor=2.0)) * image


def test_a_level_without_active_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(2))
    bundle = export(Levels(), {"image": before}, "image", tmp_path / "levels.sige")
    mask = np.zeros((16, 16), bool)
    mask[4, 4:7] = True
    active = {"16x16": mask, "8x8": np.zeros((8, 8), bool)}
    edit = Edit(bundle, {"image": before}, {"image": after}, mask, active)
    assert edit.indices.counts == {"16x16": 3, "8x8": 0}
    check_edit(edit, build(bundle))
