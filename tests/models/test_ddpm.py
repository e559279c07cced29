"""The DDPM church network: published size, tensors in and out, loading from a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sige_deploy.errors import ExportError
from sige_deploy.models import ddpm

from .counting import count_macs

TINY = {
    **ddpm.CHURCH_256,
    "sample_size": 16,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def test_size_of_the_published_network() -> None:
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = ddpm.church256()
        macs = count_macs(model, torch.empty(1, 3, 256, 256), torch.zeros(1, dtype=torch.int64))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(113.7, abs=0.05)
    assert macs / 1e9 == pytest.approx(248.5, abs=0.5)


def test_load_gives_a_tensor_function(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(**TINY)
    sample, timestep = torch.randn(2, 3, 16, 16), torch.tensor([500, 20])
    with torch.no_grad():
        expected = unet.eval()(sample, timestep).sample
        unet.save_pretrained(tmp_path / "pipeline" / "unet")
        for folder in (tmp_path / "pipeline" / "unet", tmp_path / "pipeline"):
            model = ddpm.load(folder)
            assert not model.training
            torch.testing.assert_close(model(sample, timestep), expected)


def test_folders_that_hold_no_network_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(ExportError, match="not a diffusers folder"):
        ddpm.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"no \.safetensors weights"):
        ddpm.load(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="cannot be loaded"):
        ddpm.load(tmp_path)


def test_missing_diffusers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ExportError, match="needs diffusers"):
        ddpm.church256()
