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
    """`--dist loadgroup` keeps on one worker what shares something that takes long to make."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None and (group := _group(item)):
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str | None:
    """A network of the zoo, a package with a fixture, or a module with one, and the fixture's parameter."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    name = params.get("name")
    if isinstance(name, str) and "zoo" in sys.modules and name in sys.modules["zoo"].ZOO:
        return f"zoo-{name}"
    info = getattr(item, "_fixtureinfo", None)
    scopes = {fixture: made[-1].scope for fixture, made in info.name2fixturedefs.items()} if info else {}
    if "package" in scopes.values():
        return item.path.parent.name
    if "module" not in scopes.values():
        return None
    shared = (params[fixture] for fixture, scope in scopes.items() if scope == "module" and fixture in params)
    return "-".join([item.path.stem, *map(str, shared)])


@pytest.fixture(scope="session", autouse=True)
def torch_exports_quickly() -> Iterator[None]:
    """torch.onnx parses its whole operator library at every export, half the time of a small one: keep the
    result. Keep what it traces of the zoo as well."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry
    from zoo.traced import trace_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        trace_once(patch)
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
