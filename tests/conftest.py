"""Fixtures around the hand-made bundle of tiny.py."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sige_deploy as sige


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file on one network share its export, so `--dist loadgroup` keeps them on one worker."""
    for item in items:
        network = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if isinstance(network, str):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{network}"))


@pytest.fixture(scope="session", autouse=True)
def torchlib_read_once() -> Iterator[None]:
    """torch.onnx parses its whole operator library at every export, half the time of a small one: keep "
    "the result."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny bundle; not to be changed."""
    import tiny

    path = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny.write_tiny(path)
    return path


@pytest.fixture
def tiny_copy(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return Path(shutil.copytree(tiny_path, tmp_path / "copy"))


@pytest.fixture
def session(tiny_path: Path) -> Iterator[sige.Session]:
    """A session on the tiny bundle, nothing recorded yet."""
    with sige.open(tiny_path, threads=1) as opened:
        yield opened
