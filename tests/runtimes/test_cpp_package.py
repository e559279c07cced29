"""`sige-deploy package --target cpp`: a folder that builds and runs where it lands, with Python's pixels."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from cpp_library import ROOT, Arrays, run

import sige_deploy as sige
from sige_deploy.packaging import package

pytestmark = pytest.mark.xdist_group("cpp")
BASE = tiny.inputs()
EDIT = tiny.edited(BASE, slice(3, 6), slice(4, 9))
BARE = {"PATH": "/usr/bin:/bin"}  # no Python, no variables that lead back here


@pytest.fixture(scope="module")
def moved(prefix: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, elsewhere than where it was written."""
    made = package(tiny_path, tmp_path_factory.mktemp("package") / "made", libraries=prefix)
    return Path(shutil.move(made.folder, tmp_path_factory.mktemp("elsewhere") / "moved"))


def written(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_the_commands_of_its_readme_build_and_run_it(
    moved: Path, tiny_path: Path, python: Callable[[Path], sige.Session], tmp_path: Path
) -> None:
    commands = re.findall(r"^    ((?:cmake|build/edit) .*)$", (moved / "README.md").read_text(), re.M)
    assert len(commands) == 4  # the last one takes files
    for command in commands[:3]:
        said = run(*command.split(), cwd=moved, env=BARE).splitlines()
    assert [line.split(":")[0] for line in said] == ["record", "sparse"]
    assert "native kernels" in said[1]
    made_up = [np.load(moved / "outputs" / call / "y.npy") for call in ("record", "edit")]
    assert (made_up[0] != made_up[1]).any()
    before, after = written(tmp_path / "inputs", BASE), written(tmp_path / "edited_inputs", EDIT)
    run(moved / "build" / "edit", moved / "bundle", tmp_path / "outputs", before, after, env=BARE)
    with python(tiny_path) as session:
        wanted = {"record": session.record(**BASE), "edit": session.edit(**EDIT)}
        for call, outputs in wanted.items():
            for name, array in outputs.items():
                ours = np.load(tmp_path / "outputs" / call / f"{name}.npy")
                np.testing.assert_allclose(ours, array, rtol=0, atol=1e-6)
        session.load(tmp_path / "outputs" / "state.safetensors")
        session.edit(**BASE)
        assert session.report.path == "reuse"


def test_nothing_in_it_leads_back(moved: Path, prefix: Path) -> None:
    for file in moved.rglob("*"):
        if file.suffix in (".cmake", ".pc", ".md", ".txt"):
            text = file.read_text()
            assert str(prefix) not in text and str(ROOT) not in text, file
    for library in (moved / "lib").glob("libsige*.so"):
        entries = run("readelf", "-d", library)
        paths = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", entries)
        assert paths in (["$ORIGIN"], []), library
    assert {link.readlink().is_absolute() for link in moved.rglob("*") if link.is_symlink()} == {False}


def test_an_application_finds_it_by_pkg_config(moved: Path, tmp_path: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    flags = run("pkg-config", "--cflags", "--libs", moved / "lib" / "pkgconfig" / "sige.pc").split()
    source = tmp_path / "app.cpp"
    source.write_text(
        "#include <iostream>\n#include <sige/session.h>\n"
        "int main(int, char** a) { std::cout << sige::Session::open(a[1]).inputs()[0].name; }\n"
    )
    run("c++", "-std=c++17", source, *flags, "-o", tmp_path / "app")
    environment = os.environ | {"LD_LIBRARY_PATH": str(moved / "lib")}
    assert run(tmp_path / "app", moved / "bundle", env=environment) == "image"


@pytest.mark.parametrize(
    "wrong, said",
    [
        (BASE["image"].astype(np.float64), "is no array {'descr': '<f4', 'fortran_order': False, 'shape': "),
        (BASE["image"][:1], "'shape': (2, 3, 16, 24), }"),
        (np.asfortranarray(BASE["image"]), "'fortran_order': False"),
    ],
)
def test_the_example_refuses_files_that_do_not_fit(
    moved: Path, tmp_path: Path, wrong: np.ndarray, said: str
) -> None:
    before = written(tmp_path / "inputs", BASE | {"image": wrong})
    if not (moved / "build" / "edit").exists():
        run("cmake", "-S", "example", "-B", "build", cwd=moved)
        run("cmake", "--build", "build", cwd=moved)
    with pytest.raises(AssertionError, match=re.escape(said)):
        run(moved / "build" / "edit", moved / "bundle", tmp_path / "outputs", before, before)
