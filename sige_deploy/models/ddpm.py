"""The DDPM church network (Ho et al., arXiv 2006.11239) at 256 x 256, as diffusers builds it.

113.7 M parameters, 248.5 GMACs per step. diffusers is imported only when a network is built or loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sige_deploy.errors import ExportError

# The configuration of google/ddpm-church-256.
CHURCH_256: dict[str, Any] = {
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    "attention_head_dim": None,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "time_embedding_type": "positional",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "center_input_sample": False,
}


class Denoiser(nn.Module):
    """A diffusers UNet2DModel as a function of tensors.

    forward(sample float [B, C, H, W], timestep int64 [B] or []) -> the predicted noise, float [B, C, H, W].
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.unet(sample, timestep, return_dict=False)[0]


def church256() -> Denoiser:
    """The church network with random weights, in eval mode. Raises ExportError when diffusers is missing."""
    return Denoiser(_unet_class()(**CHURCH_256)).eval()


def load(path: str | Path) -> Denoiser:
    """A UNet2DModel from a local diffusers folder (config.json and safetensors weights), in eval mode.

    Also accepts the folder of a whole pipeline, which holds the network in `unet`. Nothing is downloaded.
    Raises ExportError when the folder holds no such network or diffusers is missing.
    """
    unet_class = _unet_class()
    folder = Path(path)
    if not (folder / "config.json").is_file() and (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    if not (folder / "config.json").is_file():
        raise ExportError(
            f"{path} is not a diffusers folder: expected a config.json in it or in its folder unet."
        )
    if not any(folder.glob("*.safetensors")):
        raise ExportError(
            f"{folder} holds no .safetensors weights; save them with save_pretrained of diffusers."
        )
    try:
        unet = unet_class.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except Exception as error:  # diffusers raises many types for damaged or foreign folders
        raise ExportError(
            f"{folder} cannot be loaded as a UNet2DModel: {str(error).splitlines()[0]}"
        ) from error
    return Denoiser(unet).eval()


def _unet_class() -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise ExportError(
            "The DDPM network needs diffusers: pip install 'sige-deploy[diffusers]'."
        ) from error
    return UNet2DModel
