from __future__ import annotations

from pathlib import Path

import pytest

from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.base import create


@pytest.fixture(scope="session")
def device(tiny_path: Path) -> str:
    """A GPU that sessions can use; skips where there is none."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch with CUDA")
    import sige_deploy as sige

    try:
        create(None, sige.open_bundle(tiny_path), "cuda:0", None).close()
    except RuntimeFailure as error:
        pytest.fail(f"sessions cannot use this machine's GPU: {error}")
    return "cuda:0"
