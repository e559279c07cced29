"""LoRA files of several makes, fused into tiny networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sige_deploy.errors import ExportError
from sige_deploy.exporters.lora import fuse_lora

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
PROJECTION = "encoder.layers.1.self_attn.q_proj"
RANK, ALPHA, SCALE = 2, 3.0, 0.5


def networks() -> dict[str, Any]:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=9, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return {"unet": tiny_pipeline.unet(), "text_encoder": CLIPTextModel(config)}


def matrices(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """down [rank, in, ...] and up [out, rank, 1, ...] of a weight [out, in, ...]."""
    ones = [1] * (len(shape) - 2)
    return torch.randn(RANK, *shape[1:]), torch.randn(shape[0], RANK, *ones)


def pairs(held: dict[str, Any]) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    layers = [("unet", QUERY), ("unet", CONV), ("text_encoder", PROJECTION)]
    return {(n, p): matrices(*held[n].get_submodule(p).weight.shape) for n, p in layers}


def kohya(made: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tensors = {}
    for (network, path), (down, up) in made.items():
        prefix = "lora_unet_" if network == "unet" else "lora_te_text_model_"
        name = prefix + path.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def peft(made: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tensors = {}
    for (network, path), (down, up) in made.items():
        inner = path if network == "unet" else f"text_model.{path}"
        tensors |= {f"{network}.{inner}.lora_A.weight": down, f"{network}.{inner}.lora_B.weight": up}
    return tensors


@pytest.mark.parametrize("make", ["kohya", "peft", "peft with alpha"])
def test_weights_become_w_plus_scaled_product(make: str, tmp_path: Path) -> None:
    held, file = networks(), tmp_path / "lora.safetensors"
    made = pairs(held)
    header = {f"{n}.{key}": value for n in held for key, value in (("lora_alpha", ALPHA), ("r", RANK))}
    metadata = {"lora_adapter_metadata": json.dumps(header)} if make == "peft with alpha" else None
    save_file(kohya(made) if make == "kohya" else peft(made), file, metadata)
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in held.items()}
    assert fuse_lora(file, SCALE, held) == 3
    ratio = 1.0 if make == "peft" else ALPHA / RANK
    for network, module in held.items():
        for key, weight in module.state_dict().items():
            pair = made.get((network, key.removesuffix(".weight")))
            want = before[network][key]
            if pair is not None:
                down, up = pair
                want = want + SCALE * ratio * (up.flatten(1) @ down.flatten(1)).view_as(want)
            torch.testing.assert_close(weight, want, msg=key)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "is not a plain LoRA"),
        ({f"unet.{QUERY}.dora_scale": (8,)}, "is not a plain LoRA"),
        ({f"unet.{QUERY}.lora_A.weight": (2, 8)}, "has only one of two matrices"),
        ({f"unet.{QUERY}.bias": (8,)}, "no layer's up or down matrix"),
        ({"unet.x.lora_A.weight": (2, 8), "unet.x.lora_B.weight": (8, 2)}, "'unet.x', which the pipeline"),
        ({f"unet.{QUERY}.lora_A.weight": (2, 6), f"unet.{QUERY}.lora_B.weight": (8, 2)}, "whose weight is"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    tensors: dict[str, tuple[int, ...]], sentence: str, tmp_path: Path
) -> None:
    held, file = networks(), tmp_path / "lora.safetensors"
    good = {f"unet.{CONV}.lora_A.weight": (2, 8, 3, 3), f"unet.{CONV}.lora_B.weight": (8, 2, 1, 1)}
    given = {**good, **tensors} if tensors else {}
    save_file({name: torch.ones(shape) for name, shape in given.items()}, file)
    before = {k: v.clone() for k, v in held["unet"].state_dict().items()}
    with pytest.raises(ExportError, match=sentence):
        fuse_lora(file, 1.0, held)
    assert all(torch.equal(v, before[k]) for k, v in held["unet"].state_dict().items())
