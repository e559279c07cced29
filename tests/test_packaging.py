"""What gets installed, under which names, and what an import costs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import native_library
import pytest

import sige_deploy as sige
from sige_deploy import native

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "sige_deploy": "sige_deploy",
    "exporters": "sige_deploy/exporters",
    "runtimes": "sige_deploy/runtimes",
    "examples/street": "sige_deploy/street",
    "examples/scenes": "sige_deploy/scenes",
}
SUFFIXES = {".py", ".typed", ".safetensors"}


def python(code: str, cwd: Path, first: Path | None = None) -> str:
    """Standard output of a fresh interpreter that sees neither the repository nor the environment's paths.

    first: a folder that packages come from before all others, editable ones too.
    """
    options = ["-I"]
    if first is not None:
        paths = [str(first), *site.getsitepackages(), site.getusersitepackages()]
        options.append("-S")  # what an editable installation adds to the interpreter would come first
        code = f"import sys; sys.path += {paths!r}\n{code}"
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an installation is made from."""
    pytest.importorskip("scikit_build_core", minversion="1.1")
    folder = tmp_path_factory.mktemp("package") / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*FOLDERS, "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder


def build(source: Path, settings: dict[str, str], **environment: str) -> tuple[zipfile.ZipFile, str]:
    """The wheel that pip would build with these settings, and what the build said."""
    folder = source.parent / "wheels" / str(len(settings))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from scikit_build_core import build; build.build_wheel({str(folder)!r}, {settings!r})",
        ],
        cwd=source,
        env=os.environ | {"NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built), done.stdout


@pytest.fixture(scope="module")
def headers() -> Path:
    """Where the headers of ONNX Runtime are, if the machine can have them."""
    native_library.fetch_headers(ROOT / "plugins" / "onnxruntime" / "fetch_headers")
    return Path(os.environ.get("ONNXRUNTIME_ROOT", native_library.FOLDER / "onnxruntime_headers"))


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    return build(source, {"wheel.cmake": "false"})[0]


def test_the_wheel_holds_one_top_level_name_and_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in names} == {"sige_deploy"}
    wanted = {
        f"{installed}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.suffix in SUFFIXES
    }
    assert {name for name in names if Path(name).suffix in SUFFIXES} == wanted
    assert not [name for name in names if name.startswith("sige_deploy/runtimes/cpp")]
    swift = (
        "runtimes/swift/Package.swift",
        "plugins/coreml/SIGEConv.swift",
        "plugins/kernels/metal/conv.metal",
    )
    assert {f"sige_deploy/{name}" for name in swift} <= set(names)


def test_the_wheel_imports_from_where_it_is_installed(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import sige_deploy.runtimes.onnxruntime as r, sige_deploy.exporters as e\n"
        "print(r.__file__, e.__file__)"
    )
    for file in python(code, tmp_path, first=tmp_path).split():
        assert file.startswith(str(tmp_path / "sige_deploy"))


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_the_wheel_holds_the_native_libraries(source: Path, headers: Path, tmp_path: Path) -> None:
    settings = {
        "build-dir": str(tmp_path / "build"),
        "cmake.define.SIGE_CUDA": "OFF",
        "cmake.define.SIGE_INSTRUCTION_SETS": "none",  # quicker to build
    }
    built, said = build(source, settings, ONNXRUNTIME_ROOT=str(headers))
    assert built.filename and "-py3-none-" in built.filename and not built.filename.endswith("-any.whl")
    built.extractall(tmp_path)
    assert (tmp_path / "sige_deploy" / native.NAME.replace("onnxruntime", "kernels")).is_file()
    if "sessions without native kernels" in said:
        pytest.skip("needs ONNX Runtime's headers to build plugins/onnxruntime; set ONNXRUNTIME_ROOT")
    code = (
        "import ctypes; from sige_deploy import native\n"
        "print(native.library(), ctypes.CDLL(str(native.library())).RegisterCustomOps is not None)"
    )
    assert python(code, tmp_path, first=tmp_path) == f"{tmp_path / 'sige_deploy' / native.NAME} True"


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
@pytest.mark.parametrize(
    "missing, said",
    [
        (
            {"CXX": "/nowhere/c++"},
            "sige_deploy: pure Python, without native kernels (there is no C++ compiler",
        ),
        ({"CUDACXX": "/nowhere/nvcc"}, "sige_deploy: CPU only (there is no working nvcc"),
    ],
    ids=["compiler", "nvcc"],
)
def test_what_is_missing_is_left_out_and_said(tmp_path: Path, missing: dict[str, str], said: str) -> None:
    done = subprocess.run(
        ["cmake", "-S", ROOT / "plugins", "-B", tmp_path],
        env=os.environ | missing,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    headers = "no headers of ONNX Runtime" in done.stdout  # left out as well, by what this machine has
    assert done.stdout.count("sige_deploy: ") == 1 + headers


def test_this_installation_adds_no_other_top_level_name(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u\n"
        "print([n for n in ('exporters', 'runtimes') if u.find_spec(n)],"
        " u.find_spec('sige_deploy.runtimes') is not None, u.find_spec('sige_deploy.exporters') is not None)"
    )
    assert python(code, tmp_path) == "[] True True"


def test_metadata_agrees() -> None:
    assert importlib.metadata.version("sige-deploy") == sige.__version__
    scripts = importlib.metadata.entry_points(group="console_scripts", name="sige-deploy")
    assert {script.value for script in scripts} == {"sige_deploy.cli:main"}


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = "'torch', 'onnx', 'onnxruntime', 'onnx_ir', 'onnxscript', 'numpy', 'pydantic', 'typer', 'PIL'"
    code = f"import sys, sige_deploy; print([m for m in ({heavy}) if m in sys.modules])"
    assert python(code, tmp_path) == "[]"


def test_running_a_bundle_needs_neither_torch_nor_onnx(tiny_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, sige_deploy as sige\n"
        f"s = sige.open({str(tiny_path)!r}, threads=1)\n"
        "x = dict(image=np.zeros((2, 3, 16, 24), 'f4'), gain=np.ones(1, 'f4'))\n"
        "x['offset'] = np.zeros((1, 4, 1, 1), 'f4')\n"
        "s.record(**x); x['image'][0, 0, 3, 4] = 1; s.edit(**x); s.commit()\n"
        "print(s.report.path, [m for m in ('torch', 'onnx', 'onnx_ir', 'onnxscript') if m in sys.modules])"
    )
    assert python(code, tmp_path) == "sparse []"


@pytest.mark.parametrize("name", sige.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(sige, name) is not None
    assert name in dir(sige)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sige.nothing  # type: ignore[attr-defined]
