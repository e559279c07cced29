"""Engines built ahead of time by TensorRT for RTX, on a machine without a GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tiny
import torch
from attention_unet import INPUTS, attention_unet
from plugins.tensorrt.packages import prepare_builds

import sige_deploy as sige
from sige_deploy.demo import load_street
from sige_deploy.engines import GRAPHS, MANIFEST, PluginSpec, check_engine, find_engine, read_engine
from sige_deploy.exporters import tensorrt, tensorrt_targets
from sige_deploy.exporters.tensorrt import Built, build
from sige_deploy.exporters.tensorrt_graph import for_tensorrt
from sige_deploy.indices import bucket
from sige_deploy.models.ddpm import church256

pytestmark = pytest.mark.xdist_group("tensorrt-build")
TARGETS = ["sm86", "sm89", "sm120"]
VERSION = "1.7.1.116"


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield prepare_builds(patch)


@pytest.fixture(scope="module")
def scratch(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def export(module: torch.nn.Module, inputs: dict[str, Any], spatial: str, path: Path) -> sige.Bundle:
    return sige.export(module, inputs, path, [spatial], sige.SparseConfig(precision="float16"))


@dataclass
class Case:
    bundle: sige.Bundle
    built: Built
    cache: Path
    progress: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def small(scratch: Path) -> Case:
    """The hand-made bundle and its engines."""
    bundle = tiny.write_tiny(scratch / "tiny.sige")
    progress: list[tuple[str, int, int]] = []
    cache = scratch / "cache"
    built = build(bundle, "tensorrt-rtx", TARGETS, cache=cache, progress=lambda *x: progress.append(x))
    return Case(bundle, built, cache, progress)


def check_built(bundle: sige.Bundle, built: Built, ops: set[str]) -> None:
    """The engines are whole, take any rows, and hold the plugins of the edit graph and no function body."""
    manifest = read_engine(built.folder)
    assert manifest == built.manifest
    assert built.folder == bundle.root / "tensorrt" / "rtx-1.7-sm86+sm89+sm120"
    assert (manifest.bundle, manifest.precision, manifest.gpu) == (bundle.id, "float16", None)
    assert (manifest.flavour, manifest.version) == ("tensorrt-rtx", VERSION)
    assert manifest.capabilities == ["8.6", "8.9", "12.0"]
    graph = ir.load(bundle.path("edit.onnx")).graph
    ours = {node.name or "": node.op_type for node in graph if node.domain == "sige"}
    edit = manifest.contents["edit.engine"]
    assert edit.plugins == ours and set(ours.values()) == ops
    assert edit.stored == sorted(ours)
    # A plugin is one layer; the body of an op alone would be ten.
    others = len(graph) - len(ours)
    assert edit.layers - len(ours) <= len(graph.initializers) + len(graph.inputs) + 3 * others
    for level in bundle.manifest.levels:
        ranges = [profile[level.id] for profile in manifest.profiles]
        assert all(low == 0 < best <= most for low, best, most in ranges)
        assert [most for _, _, most in ranges] == sorted(most for _, _, most in ranges)
        assert ranges[-1][2] == bucket(level.height * level.width)
    assert not manifest.contents["record.engine"].plugins and not manifest.contents["dense.engine"].plugins


def test_a_small_attention_unet_builds(scratch: Path) -> None:
    bundle = export(attention_unet().eval(), INPUTS, "sample", scratch / "unet.sige")
    built = build(bundle, "tensorrt-rtx", TARGETS, cache=scratch / "cache")
    check_built(bundle, built, {"Conv", "Attention"})


def test_the_street_builds(scratch: Path) -> None:
    network = load_street()
    inputs = {"label": np.zeros((1, network.semantic_channels, *network.image_size), np.float32)}
    bundle = export(network, inputs, "label", scratch / "street.sige")
    check_built(bundle, build(bundle, "tensorrt-rtx", TARGETS, cache=scratch / "cache"), {"Conv", "Gather"})


@pytest.mark.xdist_group("tensorrt-build-ddpm")
def test_ddpm_256_builds(scratch: Path) -> None:
    torch.manual_seed(0)
    inputs = {"sample": np.zeros((1, 3, 256, 256), np.float32), "timestep": np.array([500])}
    bundle = export(church256(), inputs, "sample", scratch / "ddpm.sige")
    built = build(bundle, "tensorrt-rtx", TARGETS, cache=scratch / "cache")
    check_built(bundle, built, {"Conv", "Attention"})
    shutil.rmtree(scratch / "cache")
    shutil.rmtree(bundle.root)


def test_progress_goes_from_graph_to_graph(small: Case) -> None:
    assert small.built.reused == []
    assert [path.name for path in small.bundle.root.glob("tensorrt/*")] == [small.built.folder.name]
    done = [count for _, count, _ in small.progress]
    assert done == sorted(done) and small.progress[-1] == ("done", 300, 300)
    assert {what.split(":")[0] for what, _, _ in small.progress} == {*GRAPHS, "done"}


def test_a_second_build_takes_engines_from_the_cache(small: Case) -> None:
    copy = sige.open_bundle(shutil.copytree(small.bundle.root, small.bundle.root.with_name("copy.sige")))
    again = build(copy, "tensorrt-rtx", TARGETS, cache=small.cache)
    assert again.reused == list(GRAPHS)
    assert again.manifest == small.built.manifest == read_engine(again.folder)
    # One that is damaged there is built anew.
    kept = next(p for p in small.cache.glob("*.engine") if p.samefile(again.folder / "dense.engine"))
    kept.unlink()
    kept.write_bytes(b"damaged")
    once_more = build(copy, "tensorrt-rtx", TARGETS, cache=small.cache)
    assert once_more.reused == ["record", "edit"]
    assert read_engine(once_more.folder).files.keys() == again.manifest.files.keys()
    assert [p.name for p in copy.root.glob("tensorrt/*")] == [again.folder.name]


def test_an_engine_altered_in_one_byte_is_refused(small: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small.built.folder, tmp_path / "engines"))
    with (folder / "edit.engine").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(sige.BundleError, match=r"edit\.engine' was altered: its SHA-256"):
        read_engine(folder)


def test_built_engines_are_checked_against_what_is_here(small: Case) -> None:
    bundle, library = small.bundle, Path(os.environ["SIGE_NATIVE_LIBRARY"])
    plugin = PluginSpec.of(library, library.with_name("libsige_kernels.so"))
    folder = find_engine(bundle, "tensorrt-rtx", VERSION, "8.9")
    here: dict[str, Any] = {
        "flavour": "tensorrt-rtx", "version": VERSION, "capability": "8.9", "plugin": plugin, "bundle": bundle
    }  # fmt: skip
    manifest = read_engine(folder)
    check_engine(manifest, **here)
    stranger = plugin.model_copy(update={"libsige_tensorrt": "0" * 64})
    with pytest.raises(sige.RuntimeFailure, match="built with the libsige_tensorrt whose SHA-256"):
        check_engine(manifest, **{**here, "plugin": stranger})
    with pytest.raises(sige.RuntimeFailure, match=r"this GPU has 9\.0; run 'sige-deploy build"):
        check_engine(manifest, **{**here, "capability": "9.0"})


@pytest.mark.parametrize(
    ("main", "said"),
    [
        ("import sys; sys.exit('cannot be')", "ended with code 1 at the record engine: cannot be."),
        ("import os; os.abort()", "ended with code -6 at the record engine: it gave no reason."),
    ],
    ids=["error", "signal"],
)
def test_a_worker_that_ends_leaves_nothing(
    small: Case, monkeypatch: pytest.MonkeyPatch, main: str, said: str
) -> None:
    monkeypatch.setattr(tensorrt, "_MAIN", main)
    fresh = copy_without_engines(small)
    with pytest.raises(sige.RuntimeFailure, match=f"TensorRT for RTX {said}"):
        build(fresh, "tensorrt-rtx", ["sm86"], cache=small.cache)
    assert not (fresh / "tensorrt").exists()


def test_an_interrupted_build_leaves_what_was_there(small: Case, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("edit"):
            raise KeyboardInterrupt

    fresh = copy_without_engines(small)
    with pytest.raises(KeyboardInterrupt):
        build(fresh, "tensorrt-rtx", TARGETS, cache=small.cache, progress=interrupt)
    assert not (fresh / "tensorrt").exists()
    before = {path: path.stat().st_mtime_ns for path in small.built.folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        build(small.bundle, "tensorrt-rtx", TARGETS, cache=small.cache, progress=interrupt)
    assert {path: path.stat().st_mtime_ns for path in small.built.folder.parent.glob("*/*")} == before


def copy_without_engines(small: Case) -> Path:
    fresh = small.bundle.root.with_name("fresh.sige")
    shutil.rmtree(fresh, ignore_errors=True)
    return Path(shutil.copytree(small.bundle.root, fresh, ignore=shutil.ignore_patterns("tensorrt")))


def test_a_node_that_tensorrt_cannot_take_is_named(scratch: Path, tmp_path: Path) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
            return image * torch.linalg.det(matrix)

    inputs = {"image": torch.zeros(1, 3, 16, 16), "matrix": torch.zeros(4, 4)}
    bundle = sige.export(Scaled(), inputs, tmp_path / "scaled.sige", ["image"])
    node = next(node for node in ir.load(bundle.path("record.onnx")).graph if node.op_type == "Det")
    with pytest.raises(sige.RuntimeFailure) as caught:
        build(bundle, "tensorrt-rtx", ["sm86"], cache=tmp_path)
    assert str(caught.value) == (
        f"TensorRT for RTX cannot take the node '{node.name}' (Det) of the record graph: unsupported node."
    )
    assert not (tmp_path / "scaled.sige" / "tensorrt").exists()


def test_what_a_plugin_refuses_is_said(small: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(edit: ir.Model) -> ir.Model:
        node = next(node for node in for_tensorrt(edit).graph if node.domain == "sige")
        node.attributes["inputs"] = ir.AttrString("inputs", "rows nonsense")
        return edit

    monkeypatch.setattr(tensorrt, "for_tensorrt", spoiled)
    with pytest.raises(sige.RuntimeFailure) as caught:
        build(copy_without_engines(small), "tensorrt-rtx", ["sm86"], cache=small.cache)
    assert "cannot take the node 'Conv_1' (Conv) of the edit graph: " in str(caught.value)
    assert "(Conv: " in str(caught.value) and str(caught.value).endswith(").")


@pytest.mark.parametrize("targets", [["sm90"], ["sm86", "sm90"]])
def test_an_architecture_that_it_does_not_know_is_named(small: Case, targets: list[str]) -> None:
    with pytest.raises(sige.RuntimeFailure, match="does not build for sm90, only for sm75, sm80, sm86"):
        build(copy_without_engines(small), "tensorrt-rtx", targets, cache=small.cache)


def test_kernels_of_another_version_are_refused(
    small: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("libsige_tensorrt.so", "libsige_kernels.so"):
        (tmp_path / name).write_bytes(b"no library")
    monkeypatch.setenv("SIGE_NATIVE_LIBRARY", str(tmp_path / "libsige_kernels.so"))
    with pytest.raises(sige.RuntimeFailure, match="cannot be loaded"):
        build(copy_without_engines(small), "tensorrt-rtx", ["sm86"], cache=small.cache)


def test_tensorrt_of_a_gpu(
    small: Case, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of TensorRT itself, with TensorRT for RTX under its name, as if there were a GPU."""
    libraries = tmp_path / "tensorrt_libs"
    libraries.mkdir()
    (libraries / "__init__.py").touch()
    (libraries / "libtensorrt_rtx.so.1").symlink_to(package / "tensorrt_rtx_libs" / "libtensorrt_rtx.so.1")
    (tmp_path / "tensorrt.py").write_text(
        "from tensorrt_rtx_bindings import *\n"
        "from tensorrt_rtx_bindings import Builder, ComputeCapability\n"
        "__version__ = '10.16.1.11'\n"
        "make = Builder.create_builder_config\n"
        "def create(self):\n"
        "    config = make(self)\n"
        "    config.num_compute_capabilities = 1\n"
        "    config.set_compute_capability(ComputeCapability.SM89, 0)\n"
        "    return config\n"
        "Builder.create_builder_config = create\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    gpu = tensorrt_targets.Gpu("L4", "8.9")
    monkeypatch.setattr(tensorrt_targets, "first_gpu", lambda: gpu)
    fresh, cache = copy_without_engines(small), tmp_path / "cache"
    built = build(fresh, cache=cache, workspace=1 << 28)
    assert built.folder == fresh / "tensorrt" / "10.16-sm89"
    manifest = read_engine(built.folder)
    assert (manifest.flavour, manifest.version, manifest.gpu) == ("tensorrt", "10.16.1.11", "L4")
    assert manifest.contents["edit.engine"].plugins == small.built.manifest.contents["edit.engine"].plugins
    assert manifest.contents["edit.engine"].stored is None
    assert len(list(cache.glob("*.timing"))) == 1
    timed = next(cache.glob("*.timing")).read_bytes()
    assert timed
    assert build(fresh, cache=cache, workspace=1 << 28).reused == list(GRAPHS)
    assert (built.folder / MANIFEST).is_file()
