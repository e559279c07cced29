"""sige-deploy build --target coreml."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import sige_deploy as sige
from sige_deploy.coreml.manifest import read_models

from .conftest import Sige


def test_build_writes_core_ml_models(cli: Sige, three_copy: Path) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    done = cli("build", three_copy, "--target", "coreml")
    assert done.code == 0, done.err
    folder, manifest = read_models(sige.open_bundle(three_copy))
    assert f"{folder}: {len(manifest.buckets)} edit models" in " ".join(done.out.split())
    shown = [line.split()[0] for line in done.out.splitlines() if line.startswith(("edit-", "record."))]
    assert shown == list(manifest.files)


def test_build_for_core_ml_has_no_choices_of_tensorrt(cli: Sige, three: Path) -> None:
    done = cli("build", three, "--target", "coreml", "--workspace", "64")
    assert done.code == 2 and "is for TensorRT" in " ".join(done.err.split())


def test_build_for_core_ml_says_what_is_missing(
    cli: Sige, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentence = cli("build", three, "--target", "coreml").sentence()
    assert sentence.endswith("which is not installed; run pip install 'sige-deploy[coreml]'.")
    assert not (three / "coreml").exists()
