"""The manifest of engines, and what is refused before TensorRT reads any of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

import sige_deploy as sige
from sige_deploy import files
from sige_deploy.engines import (
    MANIFEST,
    NAMES,
    ContentSpec,
    EngineManifest,
    PluginSpec,
    check_engine,
    find_engine,
    read_engine,
    target_name,
)
from sige_deploy.manifest import FileSpec

PLUGIN = PluginSpec(api_version=5, libsige_tensorrt="a" * 64, libsige_kernels="b" * 64)
VERSION = "1.7.1.116"


def write_engines(of: sige.Bundle, **other: Any) -> Path:
    """Engines that hold nothing, in their folder."""
    fields: dict[str, Any] = {
        "bundle": of.id,
        "flavour": "tensorrt-rtx",
        "version": VERSION,
        "capabilities": ["8.6", "12.0"],
        "precision": "float16",
        "plugin": PLUGIN,
        "profiles": [{level.id: (0, 8, 64) for level in of.manifest.levels}],
        "contents": {name: ContentSpec(layers=1, plugins={}) for name in NAMES},
        "producer": {},
        **other,
    }
    folder = of.root / "tensorrt" / target_name(fields["flavour"], fields["version"], fields["capabilities"])
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name.encode() * 9)
    listed = {n: FileSpec(sha256=files.sha256(folder / n), bytes=9 * len(n)) for n in NAMES}
    (folder / MANIFEST).write_text(EngineManifest(files=listed, **fields).model_dump_json())
    return folder


@pytest.fixture
def bundle(tiny_copy: Path) -> sige.Bundle:
    return sige.open_bundle(tiny_copy)


@pytest.fixture
def folder(bundle: sige.Bundle) -> Path:
    return write_engines(bundle)


def test_engines_are_found_by_version_and_gpu(bundle: sige.Bundle, folder: Path) -> None:
    other = write_engines(bundle, flavour="tensorrt", version="10.16.1.11", capabilities=["9.0"], gpu="H200")
    assert (folder.name, other.name) == ("rtx-1.7-sm86+sm120", "10.16-sm90")
    assert find_engine(bundle, "tensorrt-rtx", VERSION, "12.0") == folder
    assert find_engine(bundle, "tensorrt", "10.16.1.11", "9.0") == other
    assert read_engine(folder).capabilities == ["8.6", "12.0"]
    assert read_engine(other).gpu == "H200"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            ("tensorrt-rtx", VERSION, "8.9"),
            "no engine for TensorRT for RTX 1.7.1.116 on compute capability 8.9, only for TensorRT for RTX "
            "1.7.1.116 on compute capabilities 8.6, 12.0; run 'sige-deploy build {} --target tensorrt-rtx "
            "--targets sm89'.",
        ),
        (("tensorrt-rtx", "1.8.0.2", "8.6"), "TensorRT for RTX 1.8.0.2 on compute capability 8.6, only for"),
        (
            ("tensorrt", "10.16.1.11", "8.6"),
            "no engine for TensorRT 10.16.1.11 on compute capability 8.6, only for TensorRT for RTX "
            "1.7.1.116 on compute capabilities 8.6, 12.0; run 'sige-deploy build {} --target tensorrt'.",
        ),
    ],
    ids=["gpu", "version", "flavour"],
)
def test_what_there_is_instead_is_said(
    bundle: sige.Bundle, folder: Path, wanted: tuple[Any, str, str], said: str
) -> None:
    with pytest.raises(sige.RuntimeFailure) as caught:
        find_engine(bundle, *wanted)
    assert said.format(bundle.root) in str(caught.value)


def test_none_and_damaged_ones_are_said(bundle: sige.Bundle) -> None:
    with pytest.raises(sige.RuntimeFailure, match=r"8\.6, and none for any other; run 'sige-deploy build"):
        find_engine(bundle, "tensorrt-rtx", VERSION, "8.6")
    (write_engines(bundle) / MANIFEST).write_text("{")
    with pytest.raises(sige.RuntimeFailure, match=r"only for a damaged one in 'rtx-1\.7-sm86\+sm120'"):
        find_engine(bundle, "tensorrt-rtx", VERSION, "8.6")


def test_engines_for_what_is_here_pass(bundle: sige.Bundle, folder: Path) -> None:
    here = {"flavour": "tensorrt-rtx", "version": VERSION, "capability": "8.6", "plugin": PLUGIN}
    check_engine(read_engine(folder), bundle=bundle, **here)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"capability": "8.9"}, "built for compute capabilities 8.6, 12.0, this GPU has 8.9; run '"),
        (
            {"version": "1.8.0.2"},
            "built by TensorRT for RTX 1.7.1.116, this is TensorRT for RTX 1.8.0.2; run '",
        ),
        ({"flavour": "tensorrt"}, "built by TensorRT for RTX 1.7.1.116, this is TensorRT 1.7.1.116; run '"),
        (
            {"plugin": PLUGIN.model_copy(update={"libsige_tensorrt": "c" * 64})},
            "built with the libsige_tensorrt whose SHA-256 begins with aaaaaaaaaaaa, that of the installed "
            "one begins with cccccccccccc; run '",
        ),
        (
            {"plugin": PLUGIN.model_copy(update={"libsige_kernels": "c" * 64})},
            "built with the libsige_kernels whose SHA-256 begins with bbbbbbbbbbbb",
        ),
        (
            {"plugin": PLUGIN.model_copy(update={"api_version": 6})},
            "built with kernels of API version 5, those installed have 6; run '",
        ),
    ],
    ids=["gpu", "version", "flavour", "plugin", "kernels", "api"],
)
def test_a_mismatch_names_both_sides_and_the_command(
    bundle: sige.Bundle, folder: Path, other: dict[str, Any], said: str
) -> None:
    here = {"flavour": "tensorrt-rtx", "version": VERSION, "capability": "8.6", "plugin": PLUGIN, **other}
    with pytest.raises(sige.RuntimeFailure) as caught:
        check_engine(read_engine(folder), bundle=bundle, **here)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert f"run 'sige-deploy build {bundle.root} --target {here['flavour']}" in str(caught.value)


def test_engines_of_another_bundle_are_refused(bundle: sige.Bundle) -> None:
    folder = write_engines(bundle, bundle="c" * 64)
    here = {"flavour": "tensorrt-rtx", "version": VERSION, "capability": "8.6", "plugin": PLUGIN}
    with pytest.raises(sige.BundleError) as caught:
        check_engine(read_engine(folder), bundle=bundle, **here)  # type: ignore[arg-type]
    assert f"from bundle cccccccccccc, '{bundle.root}' is {bundle.id[:12]}; run '" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_bytes(b"X" + p.read_bytes()[1:]), "was altered"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "its manifest says 99: it is truncated"),
        (lambda p: p.unlink(), "cannot read"),
        (lambda p: (p.rename(p.with_name("x")), p.symlink_to(p.with_name("x"))), "is not a regular file"),
    ],
    ids=["byte", "short", "gone", "link"],
)
def test_a_damaged_engine_is_refused(folder: Path, damage: Any, said: str) -> None:
    damage(folder / "edit.engine")
    with pytest.raises(sige.BundleError, match=said) as caught:
        read_engine(folder)
    assert "edit.engine" in str(caught.value) and "sige-deploy build" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "has schema_version 2, this sige_deploy reads 1"),
        ({"files": {}}, "not valid at files: it lists nothing instead of record.engine, edit.engine"),
        ({"version": "new"}, "not valid at version"),
        ({"extra": 1}, "not valid at extra"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(sige.BundleError, match=said):
        read_engine(folder)
    path.write_text("[")
    with pytest.raises(sige.BundleError, match="truncated or not JSON"):
        read_engine(folder)
    path.unlink()
    with pytest.raises(sige.BundleError, match="cannot read"):
        read_engine(folder)


def test_a_bundle_opens_with_engines_and_a_new_export_drops_them(bundle: sige.Bundle, folder: Path) -> None:
    assert sige.open_bundle(bundle.root).id == bundle.id
    (folder / "note.txt").write_text("mine")
    with pytest.raises(sige.BundleError, match=r"note\.txt' is not part of the bundle"):
        tiny.write_tiny(bundle.root)
    (folder / "note.txt").unlink()
    tiny.write_tiny(bundle.root)
    assert not (bundle.root / "tensorrt").exists()
    shutil.rmtree(bundle.root)
