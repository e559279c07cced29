"""The GauGAN network: published size, checkpoint names, spectral norm, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils import spectral_norm

from sige_deploy.errors import ExportError
from sige_deploy.models.gaugan import GauGAN, fold_spectral_norm, load_official

from .counting import count_macs

SMALL = {"semantic_channels": 5, "image_size": (64, 128), "ngf": 4, "spade_hidden": 8}


def official_state(model: GauGAN) -> dict[str, torch.Tensor]:
    """The state dict as the published training code saves it: spectral norm on the blocks' convolutions."""
    for name in model.block_names:
        block = getattr(model, name)
        for conv in ("conv_0", "conv_1", "conv_s"):
            if hasattr(block, conv):
                spectral_norm(getattr(block, conv))
    return {key: value.clone() for key, value in model.state_dict().items()}


def labels(model: GauGAN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(model.semantic_channels, (1, *model.image_size), generator=generator)
    return torch.nn.functional.one_hot(classes, model.semantic_channels).permute(0, 3, 1, 2).float()


def test_defaults_are_the_published_cityscapes_network() -> None:
    with torch.device("meta"):
        model = GauGAN().eval()
        macs = count_macs(model, torch.empty(1, 36, 256, 512))
    statistics = sum(b.numel() for b in model.buffers() if b.dim())
    assert sum(p.numel() for p in model.parameters()) == 93_048_003
    assert (93_048_003 + statistics) / 1e6 == pytest.approx(93.1, abs=0.05)
    assert macs / 1e9 == pytest.approx(281.3, abs=0.05)
    assert model.start_size == (4, 8)


@pytest.mark.parametrize("levels", [5, 6, 7])
def test_output_shape_and_range(levels: int) -> None:
    model = GauGAN(semantic_channels=5, image_size=(128, 128), ngf=4, spade_hidden=8, levels=levels).eval()
    with torch.no_grad():
        picture = model(labels(model))
    assert picture.shape == (1, 3, 128, 128)
    assert picture.abs().max() <= 1


def test_max_multiplier_caps_the_width() -> None:
    model = GauGAN(**SMALL, max_multiplier=2)
    assert model.head_0.conv_0.weight.shape == (8, 8, 3, 3)
    assert model.up_3.conv_1.weight.shape == (4, 4, 3, 3)


def test_checkpoint_names_of_the_published_code() -> None:
    state = official_state(GauGAN(**SMALL))
    for key in (
        "fc.weight",
        "head_0.conv_0.weight_orig",
        "head_0.conv_0.weight_u",
        "head_0.conv_0.weight_v",
        "head_0.norm_0.param_free_norm.running_mean",
        "head_0.norm_0.mlp_shared.0.weight",
        "G_middle_1.norm_1.mlp_gamma.bias",
        "up_0.conv_s.weight_orig",
        "up_3.norm_s.mlp_beta.weight",
        "conv_img.bias",
    ):
        assert key in state
    assert "up_0.conv_s.bias" not in state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("levels", [6, 7])
def test_official_checkpoint_gives_the_same_picture(tmp_path: Path, suffix: str, levels: int) -> None:
    torch.manual_seed(0)
    model = GauGAN(**{**SMALL, "image_size": (128, 256)}, levels=levels)
    state = official_state(model)
    model.train()
    with torch.no_grad():
        model(labels(model))  # moves the running statistics and the power iteration's vectors
        state = {key: value.clone() for key, value in model.state_dict().items()}
        expected = model.eval()(labels(model))
    path = tmp_path / f"latest_net_G{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = load_official(path, image_size=(128, 256), levels=levels)
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(labels(loaded)), expected)


def test_folded_weight_is_divided_by_sigma() -> None:
    weight = torch.randn(4, 3, 3, 3)
    u, v = torch.randn(4), torch.randn(27)
    folded = fold_spectral_norm({"c.weight_orig": weight, "c.weight_u": u, "c.weight_v": v, "c.bias": u})
    assert folded.keys() == {"c.weight", "c.bias"}
    torch.testing.assert_close(folded["c.weight"], weight / torch.dot(u, weight.reshape(4, 27) @ v))


def test_missing_and_unexpected_tensors_are_named() -> None:
    state = official_state(GauGAN(**SMALL))
    del state["up_1.norm_0.mlp_beta.weight"]
    state["up_9.extra"] = torch.zeros(1)
    with pytest.raises(
        ExportError, match=r"1 missing \(up_1.norm_0.mlp_beta.weight\), 1 unexpected \(up_9.extra\)"
    ):
        load_official(state, image_size=(64, 128))


def test_incomplete_spectral_norm_is_named() -> None:
    state = official_state(GauGAN(**SMALL))
    del state["up_1.conv_0.weight_v"]
    with pytest.raises(ExportError, match=r"not up_1\.conv_0\.weight_v"):
        load_official(state, image_size=(64, 128))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no checkpoint file"):
        load_official(tmp_path / "absent.pth")
    for suffix in (".pth", ".safetensors"):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(b"not a checkpoint at all")
        with pytest.raises(ExportError, match="cannot be read"):
            load_official(damaged)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ExportError, match="state dict"):
        load_official(tmp_path / "list.pth")
    with pytest.raises(ExportError, match="label map alone"):
        load_official({"fc.weight": torch.zeros(3, 4)})
    with pytest.raises(ExportError, match="up_4"):
        load_official(official_state(GauGAN(**SMALL)), image_size=(128, 128), levels=7)


@pytest.mark.parametrize(("size", "levels"), [((100, 128), 5), ((64, 128), 4), ((0, 128), 5)])
def test_sizes_that_do_not_fit_are_refused(size: tuple[int, int], levels: int) -> None:
    with pytest.raises(ExportError):
        GauGAN(image_size=size, levels=levels)
