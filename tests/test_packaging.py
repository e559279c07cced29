"""What gets installed, under which names, and what an import costs."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sige_deploy as sige

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "sige_deploy": "sige_deploy",
    "exporters": "sige_deploy/exporters",
    "runtimes": "sige_deploy/runtimes",
    "examples/street": "sige_deploy/street",
}
SUFFIXES = {".py", ".typed", ".safetensors"}


def python(code: str, cwd: Path) -> str:
    """Standard output of a fresh interpreter that sees neither the repository nor the environment's paths."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=skip)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, folder / "source")
    python(
        "import os; os.chdir('source'); from setuptools import build_meta; build_meta.build_wheel('..')",
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


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


def test_the_wheel_imports_from_where_it_is_installed(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sige_deploy.runtimes.onnxruntime as r, sige_deploy.exporters as e\n"
        "print(r.__file__, e.__file__)"
    )
    for file in python(code, tmp_path).split():
        assert file.startswith(str(tmp_path / "sige_deploy"))


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
