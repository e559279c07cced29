"""The pipelines that pipeline.py measures: written with random weights, exported, opened."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import sige_deploy as sige
from sige_deploy.errors import SigeError
from sige_deploy.pipeline_folder import read_pipeline

SEED = 0
PROMPT, EDITED = "a red house by a lake", "a blue house by a lake"
NEW = "a lake by a blue house"
SCHEDULER: dict[str, Any] = {  # Stable Diffusion 1.5's
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Settings of a random UNet2DConditionModel, AutoencoderKL and CLIPTextConfig; without any, the model is
    the trained one of examples/scenes. guidance: of its prompts."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    guidance: float = 3.0

    @property
    def trained(self) -> bool:
        return not self.unet


MODELS = {
    "sd15": Model(
        {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 512,
        },
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
        },
    ),
    "tiny": Model(
        {
            "sample_size": 32,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        },
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
        },
        {
            "hidden_size": 12,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
    ),
    "scenes": Model({}, {}, {}),
}


def source_of(name: str, folder: Path, device: str) -> tuple[Path, float]:
    """(the folder of a model as diffusers writes it, seconds that writing it took); random weights are made
    on `device` and written as float16, once."""
    model = MODELS[name]
    if model.trained:
        from sige_deploy.scenes.networks import MODEL

        return MODEL, 0.0
    source, start = folder / f"{name}.source", time.perf_counter()
    if not (source / "model_index.json").exists():
        _write(source, model, device)
    return source, time.perf_counter() - start


def exported(source: Path, path: Path, precision: str) -> multiprocessing.Process | None:
    """A started process that exports a pipeline and writes `<path>.json` with the seconds of each part, or
    None where it is there already."""
    try:
        read_pipeline(path)
    except SigeError:
        process: Any = multiprocessing.get_context("spawn").Process(
            target=_export, args=(source, path, precision)
        )
        process.start()
        return process
    return None


def export_seconds(path: Path) -> dict[str, float]:
    """By part, of an export that is done; empty for one that was there already."""
    file = path.with_suffix(".json")
    return json.loads(file.read_text()) if file.exists() else {}


def _export(source: Path, path: Path, precision: str) -> None:
    stages: list[tuple[str, float]] = []
    path.with_suffix(".json").unlink(missing_ok=True)
    config = sige.SparseConfig(precision=precision, dense_above=1.0)  # sparse whatever the size of an edit
    sige.export_diffusers(
        source, path, config, progress=lambda stage, *_: stages.append((stage, time.perf_counter()))
    )
    seconds: dict[str, float] = {}
    for (stage, start), (_, end) in pairwise(stages):
        part = stage.split(":")[0]
        seconds[part] = round(seconds.get(part, 0.0) + end - start, 1)
    path.with_suffix(".json").write_text(json.dumps(seconds))


def _write(folder: Path, model: Model, device: str) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = sorted({letter for prompt in (PROMPT, EDITED, NEW) for letter in prompt} - {" "})
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    text = CLIPTextConfig(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, **model.text)
    torch.manual_seed(SEED)
    for part, kind, given in (
        ("unet", UNet2DConditionModel, model.unet),
        ("vae", AutoencoderKL, model.vae),
        ("text_encoder", CLIPTextModel, {"config": text}),
    ):
        with torch.device(device):
            network = kind(**given)
        _enliven(network)
        network.half().save_pretrained(folder / part)
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer", vocabulary, model.text["max_position_embeddings"])
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


@torch.no_grad()
def _enliven(network: torch.nn.Module) -> None:
    """Weights of unit gain: with those that torch begins with, pictures hardly follow from anything."""
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)


def _write_tokenizer(folder: Path, vocabulary: list[str], length: int) -> None:
    """One that spells."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
