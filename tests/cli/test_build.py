"""sige-deploy build."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.tensorrt.packages import prepare_builds

import sige_deploy as sige
from sige_deploy.engines import read_engine
from sige_deploy.exporters import tensorrt_targets

from .conftest import Sige


def test_build_writes_engines_for_the_architectures(
    cli: Sige, three_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_builds(monkeypatch)
    words = ["build", three_copy, "--target", "tensorrt-rtx", "--targets", "sm89, sm86"]
    done = cli(*words, "--workspace", "64", "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    folder = three_copy / "tensorrt" / "rtx-1.7-sm86+sm89"
    manifest = read_engine(folder)
    assert manifest.bundle == sige.open_bundle(three_copy).id
    assert f"{folder}: TensorRT for RTX 1.7.1.116 on compute capabilities 8.6, 8.9, float32" in done.out
    for name, content in manifest.contents.items():
        row = next(line for line in done.out.splitlines() if line.startswith(name))
        assert row.split()[3:] == [str(content.layers), str(len(content.plugins)), "built"]
    assert cli("inspect", three_copy, "--json").json()["engines"] == [[folder.name, str(manifest), "whole"]]
    again = cli(*words, "--workspace", "64", "--cache", tmp_path / "cache")
    assert again.out.count("from the cache") == 3
    (folder / "edit.engine").write_bytes(b"")
    shown = cli("inspect", three_copy).out
    assert "Engines" in shown and "is truncated or of another engine" in " ".join(shown.split())


def test_build_says_what_is_missing(cli: Sige, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_targets, "installed", lambda flavour: False)
    assert "which is not installed; run pip install" in cli("build", three).sentence()
    monkeypatch.setattr(tensorrt_targets, "installed", lambda flavour: True)
    monkeypatch.setattr(tensorrt_targets, "first_gpu", lambda: None)
    assert "this machine has none" in cli("build", three, "--target", "tensorrt").sentence()
    assert "'sm8' is no target" in cli("build", three, "--targets", "sm86,sm8").sentence()


def test_build_needs_the_plugins(
    cli: Sige, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("polygraphy")
    monkeypatch.setattr(tensorrt_targets, "installed", lambda flavour: True)
    monkeypatch.setattr(tensorrt_targets, "first_gpu", lambda: None)
    monkeypatch.setenv("SIGE_NATIVE_LIBRARY", str(tmp_path / "libsige_kernels.so"))
    sentence = cli("build", three).sentence()
    assert (
        f"TensorRT needs the library of plugins libsige_tensorrt.so, and the folder '{tmp_path}'" in sentence
    )
    assert not (three / "tensorrt").exists()


def test_build_refuses_an_unknown_target(cli: Sige, three: Path) -> None:
    done = cli("build", three, "--target", "openvino")
    assert done.code == 2 and "'openvino' is none of tensorrt" in done.err
    assert cli("build", three, "--workspace", "0").code == 2
