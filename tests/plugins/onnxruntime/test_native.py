"""Which library a session takes, and what it says of a wrong one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

import sige_deploy as sige
from sige_deploy import native
from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.onnxruntime import OnnxRuntime


def edit(path: Path) -> tuple[str, np.ndarray]:
    """The runtime's name and the output y of an edit of the tiny bundle."""
    with sige.open(path, threads=1) as session:
        session.record(**tiny.inputs())
        outputs = session.edit(**tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9)))
        return session.report.runtime, outputs["y"]


def test_sessions_say_whether_they_run_native_kernels(
    tiny_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, str(library))
    name, with_kernels = edit(tiny_path)
    assert name == "onnxruntime cpu, native kernels"
    monkeypatch.setattr(native, "_find", lambda: None)
    name, with_bodies = edit(tiny_path)
    assert name == "onnxruntime cpu"
    np.testing.assert_allclose(with_kernels, with_bodies, rtol=0, atol=1e-5)


def test_what_the_checkout_built_comes_before_what_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    installed, sources = tmp_path / "site-packages" / "sige_deploy", tmp_path / "sige_deploy"
    monkeypatch.setattr(sige, "__path__", [str(installed), str(sources)])
    monkeypatch.setattr(native, "_CHECKOUT", tmp_path)
    built = tmp_path / "build" / "native" / native.NAME
    for file in (installed / native.NAME, built):
        file.parent.mkdir(parents=True)
        file.touch()
    assert native._find() == installed / native.NAME  # a folder called build that is not ours
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "CMakeLists.txt").touch()
    assert native._find() == built
    built.unlink()
    assert native._find() == installed / native.NAME
    (installed / native.NAME).unlink()
    assert native.library() is None


def test_a_variable_that_names_no_file_is_refused(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "/nowhere/libsige_onnxruntime.so")
    with pytest.raises(RuntimeFailure, match=r"^SIGE_NATIVE_LIBRARY names '/nowhere/.*', which is no file"):
        sige.open(tiny_path)


def test_a_library_of_another_version_is_refused(
    chosen: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "__version__", "99.0")
    with pytest.raises(RuntimeFailure, match=rf"belongs to sige_deploy {sige.__version__}, this is 99\.0;"):
        sige.open(tiny_path)


def test_another_library_is_refused(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, str(library.with_name(native.NAME.replace("onnxruntime", "kernels"))))
    with pytest.raises(RuntimeFailure, match="is no native library of sige_deploy; build it anew"):
        native.library()


def test_a_damaged_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / native.NAME).write_bytes(b"not a library")
    monkeypatch.setenv(native.VARIABLE, str(tmp_path / native.NAME))
    with pytest.raises(RuntimeFailure, match="cannot be loaded") as error:
        native.library()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"precision": "float16"}, {"caches": "float16"}, {"caches": "bool"}])
def test_bundles_of_other_types_run_on_function_bodies(
    chosen: Path, tiny_path: Path, change: dict[str, str]
) -> None:
    bundle = sige.open_bundle(tiny_path)
    assert native.supports(bundle.manifest)
    if "caches" in change:
        caches = [c.model_copy(update={"dtype": change["caches"]}) for c in bundle.manifest.caches]
        manifest = bundle.manifest.model_copy(update={"caches": caches})
    else:
        manifest = bundle.manifest.model_copy(update=change)
    assert not native.supports(manifest)
    bundle.manifest = manifest
    assert OnnxRuntime(bundle, "cpu", 1).name == "onnxruntime cpu"
