"""The demo's networks, in the classes of diffusers and transformers: a folder like Stable Diffusion's."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .tokens import LENGTH, Words

FOLDER = Path(__file__).parent
MODEL, READER = FOLDER / "model", FOLDER / "reader.safetensors"  # as train.py left them
WIDTH = 256  # of the text's embeddings
LATENT_SIZE = 64


@dataclass
class Parts:
    """What is trained."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel

    def modules(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.vae, self.unet, self.text


def new_parts(words: Words, tiny: bool = False) -> Parts:
    """Untrained networks. `tiny` is for quick tests: narrow ones of the same make."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16) if tiny else (32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8 if tiny else 16,
        sample_size=256,
        scaling_factor=1.0,  # see autoencoder.standardize
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 16, 16, 16) if tiny else (64, 96, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=(1, 2, 2, 4),  # diffusers reads it as the number of heads
        norm_num_groups=16 if tiny else 32,
    )
    config = CLIPTextConfig(
        vocab_size=words.size,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1 if tiny else 3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=words.start,
        eos_token_id=words.end,
        pad_token_id=words.end,
    )
    return Parts(vae, unet, CLIPTextModel(config))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, ending in pure noise; the network predicts v.

    Salimans and Ho, "Progressive distillation"; Lin et al., "Common diffusion noise schedules are flawed".
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # has no effect with trailing steps; pipelines of diffusers insist on it
    )


def save_pipeline(parts: Parts, tokenizer: Path, folder: Path) -> None:
    """Writes a diffusers pipeline folder, weights as float16 safetensors; the networks stay as they are."""
    copies: list[nn.Module] = []
    for module in parts.modules():
        copies.append(copy.deepcopy(module).half().to(memory_format=torch.contiguous_format))
    vae, unet, text = copies
    StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    weights = (
        folder / "text_encoder" / "model.safetensors"
    )  # with the names of CLIP's own, which all versions read
    prefix = "text_model."
    named = {prefix + name.removeprefix(prefix): value for name, value in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})
    for name in ("vocab.json", "merges.txt"):  # older transformers read these instead of tokenizer.json
        if (tokenizer / name).resolve() != (folder / "tokenizer" / name).resolve():
            shutil.copyfile(tokenizer / name, folder / "tokenizer" / name)


def load_parts(folder: Path) -> Parts:
    """The networks of a pipeline folder, in float32."""
    return Parts(
        AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32),
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", torch_dtype=torch.float32),
    )


def load_pipeline(folder: Path = MODEL, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The whole pipeline: `load_pipeline()("a red house by a lake", num_inference_steps=25).images[0]`."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
