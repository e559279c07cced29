"""Bundles with engines of the stand-in for TensorRT, and fixtures of sessions on them."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import fake_tensorrt
import onnxruntime
import pytest
import tiny
from fake_tensorrt import World
from plugins.onnxruntime.conftest import library

from sige_deploy import files, native
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.devices.memory import HostMemory, Memory
from sige_deploy.engines import (
    FOLDER,
    MANIFEST,
    NAMES,
    ContentSpec,
    EngineManifest,
    Flavour,
    PluginSpec,
    find_engine,
    read_engine,
)
from sige_deploy.exporters.tensorrt_profiles import Profile, profiles, shapes
from sige_deploy.kernels import Kernels
from sige_deploy.manifest import FileSpec
from sige_deploy.runtimes import tensorrt_engines, tensorrt_packages
from sige_deploy.runtimes.tensorrt import Engines, TensorRtOnBuffers
from sige_deploy.runtimes.tensorrt_packages import Package

__all__ = ["bundle", "installed", "library", "on_tensorrt", "tiny_with_engines", "world"]
Make = Callable[[Bundle], TensorRtOnBuffers]
CAPABILITY = "8.9"
VERSIONS: dict[Flavour, str] = {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"}


def write_engines(
    bundle: Bundle,
    plugin: PluginSpec,
    flavour: Flavour = "tensorrt",
    version: str | None = None,
    rows: list[Profile] | None = None,
) -> Path:
    """Write the folder that `sige-deploy build` would, with engines of the stand-in; returns it.

    rows: the edit engine's profiles, as `exporters.tensorrt_profiles.profiles` makes them (also None).
    """
    version = version or VERSIONS[flavour]
    levels = profiles(bundle.manifest) if rows is None else rows
    folder = bundle.root / FOLDER / "written"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        graph = bundle.path(name.replace(".engine", ".onnx"))
        varying = [_varying(graph, profile, bundle) for profile in levels] if name == "edit.engine" else []
        data = fake_tensorrt.engine_file(graph, version, varying, plugins=name == "edit.engine")
        (folder / name).write_bytes(data)
    listed = {
        name: FileSpec(sha256=files.sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in NAMES
    }
    manifest = EngineManifest(
        bundle=bundle.id,
        flavour=flavour,
        version=version,
        capabilities=[CAPABILITY],
        precision=bundle.manifest.precision,
        plugin=plugin,
        profiles=levels,
        contents={name: ContentSpec(layers=1, plugins={}) for name in NAMES},
        files=listed,
        producer={"stand-in": "1"},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder.rename(folder.with_name(manifest.target))


def rewrite(folder: Path, **fields: object) -> None:
    """Replace fields of an engine folder's manifest."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def plugin_spec(library: Path) -> PluginSpec:
    """Of the native library of the tests, which stands for the plugins too."""
    return PluginSpec.of(library, library.with_name(native.KERNELS))


def install(
    name: str, library: Path, monkeypatch: pytest.MonkeyPatch, version: str | None = None
) -> tuple[Package, World]:
    """Have the stand-in be the one installed package of TensorRT, with ONNX Runtime's custom ops for its
    plugins."""
    flavour: Flavour = "tensorrt-rtx" if name == "tensorrt_rtx" else "tensorrt"
    module, world = fake_tensorrt.make(name, version or VERSIONS[flavour], library)
    for known in ("tensorrt", "tensorrt_lean", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, known, None)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(tensorrt_packages, "_packages", {})
    monkeypatch.setattr(tensorrt_engines, "_engines", weakref.WeakValueDictionary())
    package = tensorrt_packages.installed(flavour)
    assert package is not None
    return package, world


def runtime(
    bundle: Bundle, package: Package, library: Path, memory: Memory | None = None
) -> TensorRtOnBuffers:
    """The runtime on host memory (or another that the kernels' CPU backend works on)."""
    memory = memory or HostMemory()
    folder = find_engine(bundle, package.flavour, package.version, CAPABILITY)
    engines = Engines(package, read_engine(folder), folder, library, memory)
    return TensorRtOnBuffers(bundle, memory, Kernels(library.with_name(native.KERNELS)), engines)


@pytest.fixture(scope="session")
def tiny_with_engines(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with engines of both flavours; not to be changed."""
    path = tmp_path_factory.mktemp("engines") / "tiny"
    written = tiny.write_tiny(path)
    for flavour in VERSIONS:
        write_engines(written, plugin_spec(library), flavour)
    return path


@pytest.fixture
def bundle(tiny_with_engines: Path) -> Bundle:
    return open_bundle(tiny_with_engines)


@pytest.fixture
def installed(library: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Package, World]:
    """TensorRT 10."""
    return install("tensorrt", library, monkeypatch)


@pytest.fixture
def world(installed: tuple[Package, World]) -> World:
    return installed[1]


@pytest.fixture
def on_tensorrt(installed: tuple[Package, World], library: Path) -> Make:
    """Makes the runtime on host memory."""
    return lambda bundle: runtime(bundle, installed[0], library)


def _varying(graph: Path, profile: Profile, bundle: Bundle) -> dict[str, object]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    manifest = bundle.manifest
    # The hand-made bundle has one level and one geometry, and no names for their sizes.
    plain = {"P": f"P_{manifest.levels[0].id}", "Q": f"Q_{manifest.geometries[0].id}"}
    dims = {x.name: [plain.get(d, d) for d in x.shape] for x in session.get_inputs()}
    return {name: list(ranges) for name, ranges in shapes(dims, profile, manifest).items()}
