from __future__ import annotations

import os
from pathlib import Path

import native_library
import pytest

from sige_deploy import native


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that SIGE_NATIVE_LIBRARY names, or else one built for tests."""
    named = os.environ.get(native.VARIABLE)
    if named:
        return Path(named)
    path = native_library.built() / native.NAME
    if not path.exists():
        pytest.skip("needs ONNX Runtime's headers to build plugins/onnxruntime; set ONNXRUNTIME_ROOT")
    return path


@pytest.fixture
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library, as the one that sessions take."""
    monkeypatch.setenv(native.VARIABLE, str(library))
    return library
