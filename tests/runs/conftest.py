"""Sessions on the tiny bundle, on the host's arrays and on buffers as a GPU has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devices.conftest import library, on_buffers

import sige_deploy as sige
from sige_deploy.bundle import open_bundle
from sige_deploy.session import Session

__all__ = ["library", "on_buffers"]


@pytest.fixture(params=["host", "buffers"])
def session(request: pytest.FixtureRequest, tiny_path: Path) -> Iterator[sige.Session]:
    if request.param == "host":
        opened = sige.open(tiny_path, threads=1)
    else:
        make: Callable = request.getfixturevalue("on_buffers")
        bundle = open_bundle(tiny_path)
        opened = Session(bundle, make(bundle))
    with opened:
        yield opened
