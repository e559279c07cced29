"""LoRA files fused into weights: W + scale * alpha/rank * up @ down (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sige_deploy.errors import ExportError
from sige_deploy.exporters.diffusers_folder import quiet

if TYPE_CHECKING:
    import torch

#: What follows a layer's name, in the files of diffusers, peft and kohya.
_SUFFIX = re.compile(
    r"[._]lora(?:_linear_layer)?(?:\.(?P<side>down|up)|_(?P<letter>[AB]))(?:\.default)?\.weight$"
)
_OTHERS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "oft_", "diff_b")


def fuse_lora(file: Path, scale: float, networks: Mapping[str, Any]) -> int:
    """Add a LoRA to the weights of a pipeline's networks, in place.

    file: .safetensors in diffusers' (peft's) or kohya's format. networks: by diffusers' names, "unet",
    "text_encoder", "text_encoder_2". Returns how many layers changed. Raises ExportError for a file that is
    no LoRA, or one with layers that the networks do not have; then nothing has changed.
    """
    tensors, alphas, ratios = _read(file, networks)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = _SUFFIX.search(key)
        if found is None:
            raise ExportError(f"LoRA '{file}' has '{key}', which is no layer's up or down matrix.")
        side = found["side"] or {"A": "down", "B": "up"}[found["letter"]]
        pairs.setdefault(_name(key), {})[side] = tensor
    changes = []
    for name, pair in pairs.items():
        if set(pair) != {"down", "up"}:
            raise ExportError(f"LoRA '{file}' has only one of two matrices for layer '{name}'.")
        layer = _layer(name, networks)
        if layer is None:
            raise ExportError(
                f"LoRA '{file}' changes layer '{name}', which the pipeline does not have; is it for another "
                "kind of network?"
            )
        rank = pair["down"].shape[0]
        ratio = alphas[name] / rank if name in alphas else ratios.get(name.split(".")[0], 1.0)
        delta = pair["up"].float().flatten(1) @ pair["down"].float().flatten(1)
        if delta.numel() != layer.weight.numel():
            raise ExportError(
                f"LoRA '{file}' has a change of {list(delta.shape)} for layer '{name}', whose weight is "
                f"{list(layer.weight.shape)}; is it for another kind of network?"
            )
        changes.append((layer, delta.mul_(scale * ratio)))
    for layer, delta in changes:
        weight = layer.weight.data
        weight.copy_((weight.float() + delta.view_as(weight)).to(weight.dtype))
    return len(changes)


def _read(
    file: Path, networks: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Matrices by diffusers' names, alphas by layer, and alpha/rank by network where the header says it."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot read LoRA '{file}' ({error}); give a .safetensors file.") from error
    other = next((key for key in tensors if any(part in key for part in _OTHERS)), None)
    if other is not None or not tensors:
        raise ExportError(
            f"'{file}' is not a plain LoRA ({other or 'it is empty'}); DoRA, LoHa, LoKr and the like are not "
            "fused."
        )
    xl = "text_encoder_2" in networks
    loader = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
    settings = {"unet_config": networks["unet"].config} if xl else {}
    try:
        with quiet():
            state, alphas = loader.lora_state_dict(tensors, **settings)
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ExportError(f"cannot read LoRA '{file}' ({line}).") from error
    given = {_name(k.removesuffix(".alpha")): float(v) for k, v in (alphas or {}).items()}
    return state, given, _ratios(file, header)


def _name(key: str) -> str:
    """The layer's name of a matrix's."""
    return _SUFFIX.sub("", key).replace(".processor.", ".")


def _ratios(file: Path, header: Mapping[str, str]) -> dict[str, float]:
    """lora_alpha / r of each network, of peft's settings in a file's header."""
    try:
        settings = json.loads(header.get("lora_adapter_metadata", "{}"))
    except ValueError as error:
        raise ExportError(f"LoRA '{file}' has a header that is not JSON ({error}).") from error
    ratios = {}
    for key, alpha in settings.items():
        network, _, name = key.partition(".")
        if name in ("rank_pattern", "alpha_pattern") and alpha:
            raise ExportError(
                f"LoRA '{file}' has a {name} of its own for some layers, which is not known here."
            )
        if name == "lora_alpha":
            ratios[network] = alpha / settings[f"{network}.r"]
    return ratios


def _layer(name: str, networks: Mapping[str, Any]) -> Any:
    """The layer of that name; None if there is none. Older names leave out `.0`, call a text encoder's
    `q_proj` `to_q`, or have the encoder in a `text_model`."""
    network, _, path = name.partition(".")
    if network not in networks:
        return None
    layers = {n: m for n, m in networks[network].named_modules() if getattr(m, "weight", None) is not None}
    for start in (path, path.removeprefix("text_model."), f"text_model.{path}"):
        for candidate in (start, f"{start}.0", re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", start)):
            if candidate in layers:
                return layers[candidate]
    return None
