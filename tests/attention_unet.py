"""A small UNet of diffusers with self-attention, as the exporters for other engines build it."""

from __future__ import annotations

import numpy as np
import torch

from sige_deploy.models.ddpm import Denoiser

INPUTS = {"sample": np.zeros((1, 3, 32, 32), np.float32), "timestep": np.array([500])}


def attention_unet() -> Denoiser:
    """Two levels of 32 and 64 channels at 32 x 32 pixels, with weights of one seed; its inputs: INPUTS."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return Denoiser(network)
