from __future__ import annotations

import os
from pathlib import Path

import native_library
import pytest

from sige_deploy import kernels as edits
from sige_deploy import native

from .library import Kernels


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """The library that SIGE_KERNELS_LIBRARY names, or else one built for tests."""
    named = os.environ.get("SIGE_KERNELS_LIBRARY")
    return Kernels(Path(named) if named else native_library.built() / native.KERNELS)


@pytest.fixture(scope="session")
def edit_kernels(kernels: Kernels) -> edits.Kernels:
    """The same library, as sessions use it."""
    return edits.Kernels(kernels.library._name)
