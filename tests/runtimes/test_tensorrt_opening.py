"""Opening a bundle with TensorRT where something is missing or does not fit: one sentence says what."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import fake_tensorrt
import pytest
import tensorrt_stand_in as stand_in
import tiny
from fake_tensorrt import World
from tensorrt_stand_in import Make, bundle, installed, library, on_tensorrt, tiny_with_engines, world
from test_tensorrt_gpu import Driver, driver

import sige_deploy as sige
from sige_deploy import native
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.devices.memory import HostMemory
from sige_deploy.errors import BundleError, InputError, RuntimeFailure, SigeError
from sige_deploy.runtimes import tensorrt_packages
from sige_deploy.runtimes.tensorrt_engines import Scratch
from sige_deploy.session import Session

__all__ = ["bundle", "driver", "installed", "library", "on_tensorrt", "tiny_with_engines", "world"]
BOX = slice(2, 6), slice(3, 9)


@pytest.fixture
def copy(tiny_with_engines: Path, tmp_path: Path) -> Path:
    """A bundle with engines that a test may change."""
    return Path(shutil.copytree(tiny_with_engines, tmp_path / "copy"))


def refused(kind: type[SigeError], path: Path, device: str = "cuda:0", threads: int | None = None) -> str:
    with pytest.raises(kind) as caught:
        sige.open(path, device, runtime="tensorrt", threads=threads)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and message.endswith(".")
    return message


def test_wrong_arguments(tiny_path: Path) -> None:
    assert "TensorRT does not run on device 'cpu'" in refused(InputError, tiny_path, "cpu")
    assert "there is no device 'cuda:one'" in refused(InputError, tiny_path, "cuda:one")
    assert "count of CPU threads" in refused(InputError, tiny_path, threads=0)


def test_no_plugins(tiny_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, str(library))  # of a folder without plugins
    assert "needs the library of plugins libsige_tensorrt.so" in refused(RuntimeFailure, tiny_path)


def test_a_native_library_without_cuda(
    tiny_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = library.with_name(native.KERNELS)
    monkeypatch.setattr(native, "find_plugins", lambda: (library, kernels))
    assert "was built without CUDA" in refused(RuntimeFailure, tiny_path)


def test_no_driver(bundle: Bundle, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.devices = 0
    assert "there is no device 'cuda:0'" in refused(RuntimeFailure, bundle.root)


def test_no_tensorrt(bundle: Bundle, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_packages, "_packages", {})
    for names in tensorrt_packages.PACKAGES.values():
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
    message = refused(RuntimeFailure, bundle.root)
    assert "none is installed" in message and "pip install 'sige-deploy[tensorrt]'" in message


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the folder of a bundle, which has one called tensorrt."""
    (tmp_path / "tensorrt" / "rtx-1.7-sm89").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_packages, "_packages", {})
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", None)
    assert tensorrt_packages.installed("tensorrt") is None


def test_a_package_that_cannot_be_loaded(
    bundle: Bundle, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt_lean", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tensorrt_packages, "_packages", {})
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    message = refused(RuntimeFailure, bundle.root)
    assert "package tensorrt cannot be loaded (libnvinfer.so.10: cannot open" in message


def test_the_package_that_engines_are_for_is_taken(
    copy: Path, library: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are installed, and the bundle has engines for TensorRT for RTX alone."""
    shutil.rmtree(copy / "tensorrt" / "10.16-sm89")
    stand_in.install("tensorrt_rtx", library, monkeypatch)
    other, _ = fake_tensorrt.make("tensorrt", "10.16.1.11", library)
    monkeypatch.setitem(sys.modules, "tensorrt", other)
    with sige.open(copy, "cuda:0", runtime="tensorrt") as session:
        assert session._device is not None
        assert session._device.name == "tensorrt-rtx 1.7 cuda:0, native kernels"


def test_no_engines(copy: Path, driver: Driver, world: World) -> None:
    shutil.rmtree(copy / "tensorrt")
    message = refused(RuntimeFailure, copy)
    assert "has no engine for TensorRT 10.16.1.11 on compute capability 8.9" in message
    assert "run 'sige-deploy build" in message


def test_engines_for_others(copy: Path, driver: Driver, world: World) -> None:
    for folder in (copy / "tensorrt").iterdir():
        stand_in.rewrite(folder, capabilities=["8.6"])
    message = refused(RuntimeFailure, copy)
    assert "only for TensorRT 10.16.1.11 on compute capability 8.6; TensorRT for RTX" in message


def test_engines_of_another_bundle(copy: Path, driver: Driver, world: World) -> None:
    stand_in.rewrite(copy / "tensorrt" / "10.16-sm89", bundle="0" * 64)
    assert "were built from bundle 000000000000" in refused(BundleError, copy)


def test_engines_for_other_plugins(copy: Path, driver: Driver, world: World) -> None:
    other = {"api_version": 1, "libsige_tensorrt": "0" * 64, "libsige_kernels": "0" * 64}
    stand_in.rewrite(copy / "tensorrt" / "10.16-sm89", plugin=other)
    assert "built with kernels of API version 1" in refused(RuntimeFailure, copy)


def test_an_altered_engine(copy: Path, driver: Driver, world: World) -> None:
    engine = copy / "tensorrt" / "10.16-sm89" / "edit.engine"
    data = bytearray(engine.read_bytes())
    data[0] ^= 1
    engine.write_bytes(data)
    assert "edit.engine' was altered" in refused(BundleError, copy)
    assert world.engines == 0


@pytest.mark.parametrize(
    ("call", "say"),
    [
        ("Runtime", "opening the device failed in tensorrt 10.16: createInferRuntime: CUDA failure 35"),
        ("load_library", r"loading '.*' failed in tensorrt 10.16: cannot load"),
        ("deserialize_cuda_engine", r"loading '.*record\.engine' failed in tensorrt 10.16: no"),
    ],
)
def test_what_tensorrt_refuses(
    bundle: Bundle, on_tensorrt: Make, world: World, call: str, say: str, installed: tuple[object, World]
) -> None:
    """The first record says it, and the next one does what it should."""
    with Session(bundle, on_tensorrt(bundle)) as session:
        world.log = installed[0].log  # type: ignore[attr-defined]
        world.refuse[call] = say.split("10.16: ")[1]
        with pytest.raises(RuntimeFailure, match=say):
            session.record(**tiny.inputs())
        session.record(**tiny.inputs())
        assert session.report.path == "record"


def test_an_engine_that_is_not_the_graphs(
    copy: Path, library: Path, installed: tuple[tensorrt_packages.Package, World]
) -> None:
    """An edit engine in place of the record's."""
    opened = open_bundle(copy)
    runtime = stand_in.runtime(opened, installed[0], library)
    folder = copy / "tensorrt" / "10.16-sm89"
    shutil.copy(folder / "edit.engine", folder / "record.engine")
    with Session(opened, runtime) as session, pytest.raises(RuntimeFailure) as caught:
        session.record(**tiny.inputs())
    assert "record.engine' has 'rows.image', which the bundle lacks; build the engines again" in str(
        caught.value
    )


def test_profiles(tmp_path: Path, library: Path, installed: tuple[tensorrt_packages.Package, World]) -> None:
    """The narrowest that covers an edit is taken, and one that none covers is refused in one sentence."""
    opened = tiny.write_tiny(tmp_path / "tiny", dense_above=1)
    rows = [{tiny.LEVEL: (0, 100, 300)}, {tiny.LEVEL: (0, 20, 100)}]
    stand_in.write_engines(opened, stand_in.plugin_spec(library), rows=rows)
    runtime = stand_in.runtime(opened, installed[0], library)
    with Session(opened, runtime) as session:
        session.record(**tiny.inputs())
        session.edit(**tiny.edited(tiny.inputs(), *BOX))
        engine = runtime._engines["edit.engine"]
        shapes = {name: tuple(ranges[1]) for name, ranges in engine.profiles[1].items()}
        assert engine.profile(shapes) == 1
        shapes |= {"rows.image": (2, 101, 3), "table.conv3": (101, 9)}
        assert engine.profile(shapes) == 0
        session.edit(**tiny.edited(tiny.inputs(), slice(0, 10), slice(0, 14)))
        with pytest.raises(RuntimeFailure) as caught:
            session.edit(**tiny.edited(tiny.inputs(), slice(0, 15), slice(0, 23)))
        assert "takes 'rows.image' from [2, 0, 3] to [2, 300, 3], and this edit has [2, 384, 3]" in str(
            caught.value
        )
        session.edit(**tiny.edited(tiny.inputs(), *BOX))
        assert session.report.path == "sparse"


def test_memory_for_activations() -> None:
    """One block, which grows by doubling up to what the engine needs at most."""
    memory = HostMemory()
    scratch = Scratch(memory)
    first = scratch.room(1000, 10_000)
    assert first.nbytes == 1000 and scratch.room(900, 10_000) is first
    second = scratch.room(1100, 10_000)
    assert second.nbytes == 2000 and scratch.once(1500) is second
    assert scratch.room(2500, 3000).nbytes == 3000
    assert scratch.once(5000).nbytes == 5000 and scratch.room(10, 10).nbytes == 3000
