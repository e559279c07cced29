"""Loading the kernels, and one sentence for what is wrong with them or their arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from sige_deploy.devices.memory import HostMemory
from sige_deploy.errors import RuntimeFailure
from sige_deploy.geometry import Level
from sige_deploy.kernels import Kernels, NativeIndexer, library
from sige_deploy.masks import MaskPolicy


def test_files_that_are_no_library(
    tmp_path: Path, edit_kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(
        RuntimeFailure, match=r"the native library '.*text.so' cannot be loaded \(.*\); build it anew"
    ):
        Kernels(text)
    with pytest.raises(RuntimeFailure, match="is no library of sige_deploy's kernels; build it anew"):
        Kernels("libm.so.6")
    monkeypatch.setattr(library, "API_VERSION", 99)
    with pytest.raises(RuntimeFailure, match=r"has API version [0-9]+, this release needs 99; build it anew"):
        Kernels(edit_kernels.path)


def test_devices_that_cannot_be_used(edit_kernels: Kernels) -> None:
    assert edit_kernels.has(library.CPU)
    if edit_kernels.has(library.CUDA):
        pattern = r"no CUDA driver|finds no device|there is no device cuda:99; the machine has"
    else:
        pattern = "built without CUDA; build them anew with it"
    with pytest.raises(RuntimeFailure, match=pattern):
        edit_kernels.check_device(99)


def test_more_levels_than_the_kernels_take(edit_kernels: Kernels) -> None:
    levels = [Level(str(i), 4, 4) for i in range(129)]
    with pytest.raises(
        RuntimeFailure, match="at most 128 levels, 512 geometries and 16 spatial inputs, not 129, 0"
    ):
        NativeIndexer(edit_kernels, HostMemory(), levels, [], MaskPolicy(), [(4, 4)])
