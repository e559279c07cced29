"""Fixtures of the C++ library: built, and beside Python sessions."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import native_library
import pytest
import swift_package
from cpp_library import ROOT, Script, driver_of, installed

import sige_deploy as sige
from sige_deploy import native


@pytest.fixture(scope="session")
def needs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of CMake that say where ONNX Runtime and the JSON library are."""
    for tool in ("cmake", "g++"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    native_library.fetch_headers(
        *(ROOT / name / "fetch_headers" for name in ("plugins/onnxruntime", "runtimes/cpp"))
    )
    fetched = native_library.FOLDER
    headers = next((fetched / "onnxruntime_headers").glob("usr/include/onnxruntime/*_cxx_api.h"), None)
    given = os.environ.get("ONNXRUNTIME_ROOT")
    if headers is None and given is None:
        pytest.skip("needs the headers of ONNX Runtime; set ONNXRUNTIME_ROOT")
    json_headers = [
        p for p in (fetched / "json" / "usr/include", Path("/usr/include")) if (p / "nlohmann").is_dir()
    ]
    if not json_headers or not Path("/usr/include/openssl/evp.h").exists():
        pytest.skip("needs nlohmann-json3-dev and libssl-dev")
    # The package's library, under the names that a release of ONNX Runtime gives it.
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    found = next((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"), None)
    if found is None:
        pytest.skip("needs the library of ONNX Runtime as a file of its own")
    root = tmp_path_factory.mktemp("onnxruntime")
    (root / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(found)
    (root / "include").symlink_to(headers.parents[1] if headers else Path(given or "") / "include")
    return [f"-DONNXRUNTIME_ROOT={root}", f"-DNLOHMANN_JSON_INCLUDE_DIR={json_headers[0]}", "-DSIGE_CUDA=OFF"]


@pytest.fixture(scope="session")
def prefix(needs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(
        needs, tmp_path_factory.mktemp("cpp"), "-DSIGE_INSTRUCTION_SETS=avx2", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"
    )


@pytest.fixture(scope="session")
def driver(prefix: Path) -> Path:
    return driver_of(prefix)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.fixture
def python(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], sige.Session]:
    """Opens Python sessions on the same kernels."""
    monkeypatch.setenv(native.VARIABLE, str(prefix / "lib" / native.NAME))
    return lambda path: sige.open(path, threads=1)


@pytest.fixture(scope="session")
def swift_driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the driver of the Swift package; skips where there is no compiler."""
    return swift_package.driver(tmp_path_factory.mktemp("swift"))


@pytest.fixture
def swift_script(swift_driver: list[str], tmp_path: Path) -> swift_package.Script:
    folder = tmp_path / "script"
    folder.mkdir()
    return swift_package.Script(swift_driver, folder)
