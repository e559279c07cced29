"""The plugin library in TensorRT's registries, on a machine without a GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sige_deploy.ops import SIGNATURES

from .packages import REGISTRIES, library, run


@pytest.mark.parametrize("package", REGISTRIES)
def test_every_op_has_a_creator_and_plugins(package: str, tmp_path: Path) -> None:
    got = run("create_plugins.py", package, tmp_path)
    assert got["creators"] == sorted(SIGNATURES)
    assert got["left"] == []
    for op, found in got["found"].items():
        assert found["identity"] == [op, "1", "sige"]
        assert found["refused"], "a node that does not say which inputs it has"
        # TensorRT orders nodes itself, so that "early" says nothing to a plugin.
        assert found["fields"] == sorted({*SIGNATURES[op].attributes, "inputs"} - {"early"})


def test_the_library_exports_its_two_entry_points_and_links_no_tensorrt() -> None:
    def said(*command: str) -> str:
        return subprocess.run([*command, library()], capture_output=True, text=True, check=True).stdout

    exported = [line.split()[-1] for line in said("nm", "-D", "--defined-only").splitlines()]
    assert sorted(exported) == ["getCreators", "setLoggerFinder"]
    needed = said("readelf", "-d")
    assert "libsige_kernels.so" in needed
    assert "nvinfer" not in needed and "libcuda" not in needed
