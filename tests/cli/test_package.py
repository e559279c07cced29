"""sige-deploy package: what it puts where, and what it refuses; the libraries are stand-ins here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sige_deploy as sige
from sige_deploy import packaging_cpp

FILES = (
    "lib/libsige.so.0", "lib/libsige_kernels.so", "lib/libsige_onnxruntime.so", "lib/libonnxruntime.so.1",
    "lib/cmake/sige/sigeConfig.cmake", "lib/cmake/sige/sigeConfigVersion.cmake", "lib/pkgconfig/sige.pc",
    "include/sige/session.h", "share/sige/example/main.cpp", "share/licenses/sige/LICENSE",
    "share/licenses/sige/onnxruntime/LICENSE",
)  # fmt: skip
Cli = Callable[..., Any]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """What looks like an installed C++ library, among others' files."""
    for name in (*FILES, "lib/libother.so", "include/other.h", "share/doc/other"):
        file = tmp_path / "prefix" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'set(PACKAGE_VERSION "{sige.__version__}")')
    (tmp_path / "prefix/lib/libsige.so").symlink_to("libsige.so.0")
    return tmp_path / "prefix"


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def test_it_holds_the_bundle_and_what_runs_it(cli: Cli, three: Path, prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # empty: it may be there
    done = cli("package", three, "--target", "cpp", "-o", tmp_path / "out", "--libraries", prefix)
    assert done.code == 0, done.err
    listed = sige.open_bundle(tmp_path / "out" / "bundle").manifest.files
    inside = {name for name in FILES if not name.startswith("share/")}
    inside |= {
        "lib/libsige.so",
        "README.md",
        "example/main.cpp",
        "licenses/LICENSE",
        "licenses/onnxruntime/LICENSE",
    }
    inside |= {f"bundle/{name}" for name in (*listed, "manifest.json")}
    assert files_in(tmp_path / "out") == inside
    assert os.readlink(tmp_path / "out/lib/libsige.so") == "libsige.so.0"
    assert f"wrote {len(inside)} files" in done.out
    readme = (tmp_path / "out/README.md").read_text()
    assert "| `image` | float32 | [1, 3, 32, 32] | spatial |" in readme
    assert "| `picture` | float32 | [1, 3, 32, 32] | output |" in readme
    assert "cmake -S example -B build" in readme


def test_engines_go_with_the_bundle(cli: Cli, three_copy: Path, prefix: Path, tmp_path: Path) -> None:
    (three_copy / "tensorrt" / "10.16-sm90").mkdir(parents=True)
    (three_copy / "tensorrt" / "10.16-sm90" / "edit.engine").write_bytes(b"engine")
    (three_copy / "notes.txt").write_text("mine")
    assert (
        cli("package", three_copy, "--target", "cpp", "-o", tmp_path / "out", "--libraries", prefix).code == 0
    )
    assert (tmp_path / "out/bundle/tensorrt/10.16-sm90/edit.engine").read_bytes() == b"engine"
    assert not (tmp_path / "out/bundle/notes.txt").exists()


def test_what_it_refuses_is_one_sentence_and_leaves_nothing(
    cli: Cli, three_copy: Path, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refused(*words: object, bundle: Path = three_copy, target: str = "cpp", out: Path = out) -> str:
        before = files_in(tmp_path)
        done = cli("package", bundle, "--target", target, "-o", out, *words)
        assert files_in(tmp_path) == before
        return done.sentence()

    assert "there is no target 'kotlin'" in refused("--libraries", prefix, target="kotlin")
    assert "there is no bundle at" in refused("--libraries", prefix, bundle=tmp_path / "none")
    for place in (prefix, prefix / FILES[0]):
        assert f"'{place}' is not an empty folder" in refused("--libraries", prefix, out=place)
    assert "(Not a directory)" in refused("--libraries", prefix, out=prefix / FILES[0] / "below")
    assert f"there is no C++ library in '{tmp_path}'; build it with 'make cpp'" in refused(
        "--libraries", tmp_path
    )
    monkeypatch.setattr(packaging_cpp, "_BUILT", tmp_path / "nothing")
    assert f"there is no C++ library in '{tmp_path / 'nothing'}'" in refused()
    monkeypatch.setattr(packaging_cpp, "_CHECKOUT", tmp_path)  # an installed package
    assert "build it with CMake from runtimes/cpp in the sources of this version" in refused()
    (prefix / "lib/libonnxruntime.so.1").unlink()
    assert "lacks 'lib/libonnxruntime*.so*'" in refused("--libraries", prefix)
    (prefix / "lib/cmake/sige/sigeConfigVersion.cmake").write_text('set(PACKAGE_VERSION "0.0.9")')
    assert f"belongs to sige_deploy 0.0.9, this is {sige.__version__};" in refused("--libraries", prefix)
    (three_copy / "edit.onnx").write_bytes(b"")
    assert "edit.onnx' has 0 bytes" in refused("--libraries", prefix)
    assert not out.exists()


def test_a_wrong_use_exits_with_2(cli: Cli, three: Path, tmp_path: Path) -> None:
    assert cli("package", three, "-o", tmp_path / "out").code == 2
    assert cli("package", three, "--target", "cpp").code == 2
