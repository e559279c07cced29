"""sige-deploy package --target swift: what it puts where and what it refuses; the models are stand-ins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import sige_deploy as sige
from sige_deploy.coreml.manifest import CoreMLManifest
from sige_deploy.manifest import FileSpec

Cli = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def built(three_copy: Path) -> Path:
    """A bundle with what looks like Core ML models."""
    bundle = sige.open_bundle(three_copy)
    folder = three_copy / "coreml" / "float16"
    (folder / "record.mlpackage").mkdir(parents=True)
    for name in ("edit-0.mlmodel", "record.mlpackage/Manifest.json"):
        (folder / name).write_bytes(b"model")
    spec = FileSpec(sha256=hashlib.sha256(b"model").hexdigest(), bytes=5)
    manifest = CoreMLManifest(
        bundle=bundle.id,
        context=7,
        buckets=[{level.id: 64 for level in bundle.manifest.levels}],
        inputs=[],
        outputs=[],
        arrays=[],
        geometries=[],
        active=[],
        layers=[],
        record="record.mlpackage",
        record_inputs={"image": "image", "gain": "gain"},
        record_outputs={o.name: o.name for o in bundle.manifest.outputs},
        files={"edit-0.mlmodel": spec, "record.mlpackage/Manifest.json": spec},
    )
    (folder / "coreml.json").write_text(manifest.model_dump_json(by_alias=True))
    return three_copy


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def test_it_holds_sources_models_and_a_self_test(cli: Cli, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("package", built, "--target", "swift", "-o", out)
    assert done.code == 0, done.err
    found = files_in(out)
    inside = {name for name in found if name.startswith("Sources/SIGEBundle/bundle/")}
    listed = {"manifest.json", "geometry.safetensors"}
    listed |= {
        f"coreml/float16/{name}"
        for name in ("coreml.json", "edit-0.mlmodel", "record.mlpackage/Manifest.json")
    }
    assert inside == {f"Sources/SIGEBundle/bundle/{name}" for name in listed}
    for source, place, pattern in (
        ("runtimes/swift/Sources", "Sources", "**/*.swift"),
        ("runtimes/swift/Examples", "Examples", "**/*.swift"),
        ("plugins/coreml", "Sources/SIGELayers", "*.swift"),
        ("plugins/kernels/metal", "Sources/SIGEKit/metal", "*.metal"),
        ("plugins/kernels/metal", "Sources/SIGEKit/metal", "*.h"),
    ):
        files = sorted((ROOT / source).glob(pattern))
        assert files
        for file in files:
            assert (out / place / file.relative_to(ROOT / source)).read_bytes() == file.read_bytes()
    assert {"Package.swift", "README.md"} <= found
    for target in ("SIGECore", "SIGELayers", "SIGEKit", "SIGEBundle", "SIGESelfTest"):
        assert f'name: "{target}"' in (out / "Package.swift").read_text()
        assert (out / "Sources" / target).is_dir()
    readme = (out / "README.md").read_text()
    assert "| `image` | float32 | [1, 3, 32, 32] | spatial |" in readme
    assert "Tensor(.float32, shape: [1, 3, 32, 32]" in readme


def test_the_self_test_holds_what_a_session_makes(cli: Cli, built: Path, tmp_path: Path) -> None:
    assert cli("package", built, "--target", "swift", "-o", tmp_path / "out").code == 0
    golden = load_file(tmp_path / "out/Sources/SIGEBundle/selftest.safetensors")
    mask = golden["mask"]
    assert 0.005 < mask.mean() < 0.03

    def inputs(part: str) -> dict[str, np.ndarray]:
        return {name: golden[f"{part}.input.{name}"] for name in ("image", "gain")}

    differs = inputs("recorded")["image"] != inputs("edited")["image"]
    np.testing.assert_array_equal(differs.any(axis=(0, 1)), mask)
    with sige.open(built, threads=1) as session:
        np.testing.assert_allclose(
            session.record(**inputs("recorded"))["picture"], golden["recorded.output.picture"], atol=1e-5
        )
        edited = session.edit(mask=mask, **inputs("edited"))["picture"]
        assert session.report.path == "sparse"
        np.testing.assert_allclose(edited, golden["edited.output.picture"], atol=1e-5)
    np.testing.assert_allclose(golden["back.output.picture"], golden["recorded.output.picture"], atol=1e-4)


def test_what_it_refuses_is_one_sentence_and_leaves_nothing(
    cli: Cli, three: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def refused(bundle: Path, *words: object) -> str:
        sentence: str = cli("package", bundle, "--target", "swift", "-o", out, *words).sentence()
        assert not out.exists()
        return sentence

    assert "has no Core ML models; build the models anew with 'sige-deploy build" in refused(three)
    assert "leave the libraries out" in refused(built, "--libraries", tmp_path)
    (built / "coreml/float16/edit-0.mlmodel").write_bytes(b"other")
    assert "edit-0.mlmodel' was altered or cut short" in refused(built)
