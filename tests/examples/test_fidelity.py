"""The demo's edits on trained weights: how far the sparse picture is from the dense one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sige_deploy as sige
from sige_deploy.demo import DILATE
from sige_deploy.session import Session
from sige_deploy.street.demo_scene import demo_scene, one_hot
from sige_deploy.street.network import load_street_generator

BASE, EDITS = demo_scene()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path: Path = tmp_path_factory.mktemp("street") / "street.sige"
    config = sige.SparseConfig(dilate=DILATE, dense_above=1.0)
    bundle = sige.export(load_street_generator(), {"label": one_hot(BASE)}, path, ["label"], config)
    assert bundle.manifest.islands == []
    session = sige.open(path)
    session.record(label=one_hot(BASE))
    return session


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB, for pictures in [-1, 1]."""
    return float(10 * np.log10(4.0 / np.mean((a - b) ** 2)))


@pytest.mark.parametrize(("name", "label"), EDITS, ids=[name for name, _ in EDITS])
def test_an_edit_looks_like_the_dense_picture(name: str, label: np.ndarray, session: Session) -> None:
    sparse = session.edit(label=one_hot(label))["output"]
    assert session.report.path == "sparse"
    dense = onnxruntime.InferenceSession(session.bundle.path("dense.onnx"))
    (want,) = dense.run(None, {"label": one_hot(label)})
    changed = label != BASE
    inside, outside = (psnr(sparse[0][:, where], want[0][:, where]) for where in (changed, ~changed))
    print(f"{name}: {inside:.1f} dB inside, {outside:.1f} dB outside")
    assert inside >= 45 and outside >= 45


def test_edits_differ_from_the_recorded_picture(session: Session) -> None:
    """The bounds above mean something: the recorded picture is far from what each edit asks for."""
    recorded = session.record(label=one_hot(BASE))["output"]
    for _, label in EDITS:
        edited = session.edit(label=one_hot(label))["output"]
        changed = label != BASE
        assert psnr(edited[0][:, changed], recorded[0][:, changed]) < 25
