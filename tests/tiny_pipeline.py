"""Pipeline folders of diffusers with tiny random networks, written as save_pretrained writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from zoo.registry import enliven

TOKENS = 7
WORDS = ["a", "cat", "dog", "house", "red"]

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SD2 = {"use_linear_projection": True, "attention_head_dim": [2, 4]}
SDXL = {
    "use_linear_projection": True,
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [1, 2],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 10 + 6 * 4,
    "cross_attention_dim": 20,
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def unet(**settings: Any) -> UNet2DConditionModel:
    """A UNet of two levels, 16 x 16 pixels as the VAE below enlarges its latents."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(**(UNET | settings)).eval()
    enliven(network)
    return network


def controlnet(of: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet for the UNet, whose hints are 2 x 2 pixels per latent."""
    torch.manual_seed(1)
    network = ControlNetModel.from_unet(of, conditioning_embedding_out_channels=(4, 8)).eval()
    enliven(network)
    return network


def vae() -> AutoencoderKL:
    """A VAE of factor 2."""
    torch.manual_seed(2)
    network = AutoencoderKL(**VAE).eval()
    enliven(network)
    return network


def write(folder: Path, xl: bool = False, tokens: int = TOKENS, **settings: Any) -> Path:
    """A Stable Diffusion pipeline, or with `xl` a Stable Diffusion XL one. tokens: of a prompt. settings: of
    the UNet."""
    unet(**(SDXL if xl else {}) | settings).save_pretrained(folder / "unet")
    vae().save_pretrained(folder / "vae")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    if xl:
        index["force_zeros_for_empty_prompt"] = True
    for i, suffix in enumerate(("", "_2")[: 1 + xl]):
        torch.manual_seed(3 + i)
        config = CLIPTextConfig(
            vocab_size=2 * len(WORDS) + 2, hidden_size=10 if xl else 12, intermediate_size=16,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=tokens, projection_dim=10,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
        kind(config).eval().save_pretrained(folder / f"text_encoder{suffix}")
        index[f"text_encoder{suffix}"] = ["transformers", kind.__name__]
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
        _write_tokenizer(folder / f"tokenizer{suffix}", tokens)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _write_tokenizer(folder: Path, tokens: int) -> None:
    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{w}</w>" for w in WORDS)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": tokens, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
