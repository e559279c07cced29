"""A whole network: exported, written as Core ML models, and its edit run by the Metal kernels on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coreml_edits import Edit, error

import sige_deploy as sige
from sige_deploy.bundle import open_bundle

from .kernels import MetalKernels
from .layers import metal_layers

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("coreml")


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Edit, Path, dict[str, int]]:
    """A box of another noise in a small U-Net with attention; its model and the model's bucket."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")

    from sige_deploy.exporters.coreml import build
    from sige_deploy.models.ddpm import Denoiser

    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 24),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=12,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    path = tmp_path_factory.mktemp("metal") / "unet.sige"
    step = np.array([500])
    inputs = {"sample": np.zeros((1, 3, 16, 16), np.float32), "timestep": step}
    sige.export(Denoiser(network).eval(), inputs, path, ["sample"], sige.SparseConfig())
    built = build(path)
    rng = np.random.default_rng(0)
    before, after = (rng.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(2))
    mask = np.zeros((16, 16), bool)
    mask[4:9, 5:8] = True
    edit = Edit(
        open_bundle(path), {"sample": before, "timestep": step}, {"sample": after, "timestep": step}, mask
    )
    bucket = edit.bucket(built.manifest.buckets)
    return edit, built.folder / f"edit-{bucket}.mlmodel", built.manifest.buckets[bucket]


def test_an_edit_agrees(edit: tuple[Edit, Path, dict[str, int]], metal: MetalKernels) -> None:
    run, model, bucket = edit
    got = run.run(model, bucket, metal_layers(metal))
    assert got.keys() == run.expected.keys()
    for name, expected in run.expected.items():
        assert error(got[name], expected) < 3e-3
