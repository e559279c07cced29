"""The two networks of the SIGE paper at full size: exact where edits must be exact, and faster than dense."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from reference import Reference
from torch import Tensor, nn

import sige_deploy as sige
from sige_deploy.masks import level_masks
from sige_deploy.models.ddpm import church256
from sige_deploy.models.gaugan import GauGAN
from sige_deploy.session import Session

pytestmark = pytest.mark.xdist_group("full size")  # the reference takes 14 GB: one after the other

Inputs = dict[str, Tensor]
SMALL_EDIT = 0.012  # share of the picture


def gaugan_inputs(seed: int) -> Inputs:
    """A one-hot label map of blocks of 16 pixels, with the edge channel empty."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 35, (16, 32), generator=generator)
    labels = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return {"label": nn.functional.one_hot(labels, 36).permute(2, 0, 1)[None].float()}


def ddpm_inputs(seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return {"sample": torch.randn(1, 3, 256, 256, generator=generator), "timestep": torch.tensor([500])}


@dataclass
class Case:
    module: nn.Module
    session: Session
    make: Callable[[int], Inputs]
    image: str
    recorded: Inputs
    output: Tensor
    least: float  # how many times faster than dense a small edit has to be

    def small_edit(self) -> Inputs:
        """Other content in one square of SMALL_EDIT of the picture."""
        edited = {name: value.clone() for name, value in self.recorded.items()}
        height, width = edited[self.image].shape[-2:]
        side = round((SMALL_EDIT * height * width) ** 0.5)
        box = np.s_[..., 100 : 100 + side, 90 : 90 + side]
        edited[self.image][box] = self.make(7)[self.image][box]
        return edited


@pytest.fixture(scope="module", params=["gaugan", "ddpm"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    gaugan = request.param == "gaugan"
    module = (GauGAN() if gaugan else church256()).eval()
    make, image = (gaugan_inputs, "label") if gaugan else (ddpm_inputs, "sample")
    path: Path = tmp_path_factory.mktemp(request.param) / "bundle"
    bundle = sige.export(module, make(0), path, spatial=[image], config=sige.SparseConfig(dense_above=1.0))
    assert bundle.manifest.islands == [] and bundle.manifest.refusals == []
    session = sige.open(path)
    recorded = make(1)
    return Case(
        module, session, make, image, recorded, session.record(**recorded)["output"], 4 if gaugan else 3
    )


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert float((got - want).abs().max()) <= tolerance * float(want.max() - want.min())


def test_record_is_dense(case: Case) -> None:
    with torch.no_grad():
        assert_close(case.output, case.module(**case.recorded), 1e-4)


def test_the_recorded_input_as_edit_gives_the_record(case: Case) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random(case.recorded[case.image].shape[-2:]) < 0.002
    mask[40:70, 60:90] = True
    got = case.session.edit(**case.recorded, mask=mask)["output"]
    assert case.session.report.path == "sparse"
    assert_close(got, case.output, 1e-5)


def test_an_edit_is_what_the_reference_says(case: Case) -> None:
    edited = case.small_edit()
    got = case.session.edit(**edited)["output"]
    assert case.session.report.path == "sparse"
    bundle = case.session.bundle
    changed = (edited[case.image] != case.recorded[case.image]).any(dim=1)[0].numpy()
    geometries = {g.id: g for g in bundle.geometries()}
    masks = level_masks([changed], bundle.levels(), geometries, bundle.policy())
    by_size = {level.shape: torch.from_numpy(masks[level.id]) for level in bundle.levels()}
    reference = Reference(case.module, case.make(0), (case.image,))
    (want,) = reference.run(case.recorded, (edited, by_size))
    assert_close(got, want, 1e-4)


def test_a_small_edit_is_faster_than_dense(case: Case) -> None:
    """Interleaved against the same network dense in the same engine with the same threads."""
    import onnxruntime

    edited = case.small_edit()
    dense = onnxruntime.InferenceSession(case.session.bundle.path("dense.onnx"))
    feeds = {name: value.numpy() for name, value in edited.items()}
    case.session.edit(**edited)
    dense.run(None, feeds)
    seconds: dict[str, list[float]] = {"sparse": [], "dense": []}
    for _ in range(3):
        start = time.perf_counter()
        dense.run(None, feeds)
        middle = time.perf_counter()
        case.session.edit(**edited)
        seconds["dense"].append(middle - start)
        seconds["sparse"].append(time.perf_counter() - middle)
    assert median(seconds["dense"]) >= case.least * median(seconds["sparse"]), seconds
