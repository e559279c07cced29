"""The networks that network.py measures: float32 torch modules with the same weights at every call."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor, nn

import sige_deploy as sige

SEED = 0
WAYS = ("compiled", "graphed", "onnxruntime")


@dataclass(frozen=True)
class Network:
    """build: the module in eval mode, on the CPU. inputs: of its forward, by name; float ones are float32.
    spatial: the input that edits change. on_cpu: whether edits are checked against a session on the CPU as
    well, which takes minutes for the largest. ways: dense runs to compare with unless told otherwise; ONNX
    Runtime takes long to open the UNets. steps: its edits are steps of a run, which have one mask."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    spatial: str
    on_cpu: bool = True
    ways: tuple[str, ...] = WAYS
    steps: bool = False


def _ddpm() -> nn.Module:
    from sige_deploy.models import ddpm

    return ddpm.church256()


def _gaugan() -> nn.Module:
    from sige_deploy.models.gaugan import GauGAN

    return GauGAN().eval()


def _street() -> nn.Module:
    from sige_deploy.street.network import load_street_generator

    return load_street_generator()


def _street_inputs() -> dict[str, Tensor]:
    from sige_deploy.street.demo_scene import demo_scene, one_hot

    return {"label": torch.from_numpy(one_hot(demo_scene()[0]))}


def _denoiser() -> nn.Module:
    """The UNet of Stable Diffusion 1.5 on keys and values of a text, which is how pipelines run it."""
    from diffusers import UNet2DConditionModel

    from sige_deploy.exporters.diffusers_modules import Denoiser

    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    return Denoiser(unet.eval()).eval()


def _denoiser_inputs(width: int) -> dict[str, Tensor]:
    """A batch of both halves of the guidance at 8 * 64 x 8 * width pixels."""
    keys_and_values = 2 * (5 * 320 + 5 * 640 + 6 * 1280)  # of 16 transformer blocks
    return {
        "sample": torch.zeros(2, 4, 64, width),
        "timestep": torch.tensor([500.0]),
        "text": torch.zeros(2, 77, keys_and_values),
    }


def _vae() -> nn.Module:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **kinds
    ).eval()


def _vae_encoder() -> nn.Module:
    from sige_deploy.exporters.diffusers_modules import VaeEncoder

    return VaeEncoder(_vae()).eval()


def _vae_decoder() -> nn.Module:
    from sige_deploy.exporters.diffusers_modules import VaeDecoder

    return VaeDecoder(_vae()).eval()


NETWORKS = {
    "ddpm": Network(
        _ddpm,
        lambda: {"sample": torch.zeros(1, 3, 256, 256), "timestep": torch.tensor([500])},
        "sample",
        steps=True,
    ),
    "gaugan": Network(_gaugan, lambda: {"label": torch.zeros(1, 36, 256, 512)}, "label"),
    "street": Network(_street, _street_inputs, "label"),
    "sd15": Network(
        _denoiser, lambda: _denoiser_inputs(64), "sample", on_cpu=False, ways=WAYS[:2], steps=True
    ),
    "sd15_wide": Network(
        _denoiser, lambda: _denoiser_inputs(128), "sample", on_cpu=False, ways=WAYS[:2], steps=True
    ),
    "vae_encoder": Network(
        _vae_encoder, lambda: {"image": torch.zeros(1, 3, 512, 512)}, "image", on_cpu=False
    ),
    "vae_decoder": Network(
        _vae_decoder, lambda: {"latents": torch.zeros(1, 4, 64, 64)}, "latents", on_cpu=False
    ),
}
FAST = ("ddpm", "gaugan", "street")  # what is measured unless told otherwise


def build(name: str) -> nn.Module:
    """The float32 module, weights by SEED where they are random."""
    torch.manual_seed(SEED)
    return NETWORKS[name].build()


def bundles(name: str) -> dict[str, str]:
    """File name of a bundle -> its precision; fidelity needs the trained network in float32 as well."""
    files = {f"{name}.float16.sige": "float16"}
    return files | {f"{name}.float32.sige": "as_given"} if name == "street" else files


def exporting(name: str, folder: Path) -> list[BaseProcess]:
    """Begin to export the bundles that the folder lacks, each in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[BaseProcess] = []
    for file, precision in bundles(name).items():
        if not (folder / file).exists():
            processes.append(
                multiprocessing.get_context("spawn").Process(
                    target=_export, args=(name, folder / file, precision), daemon=True
                )
            )
            processes[-1].start()
    return processes


def exported(processes: Sequence[BaseProcess]) -> None:
    """Wait for exports. Raises RuntimeError where one failed."""
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("an export failed")


def _export(name: str, path: Path, precision: str) -> None:
    network = NETWORKS[name]
    config = sige.SparseConfig(precision=precision)
    sige.export(build(name), network.inputs(), path, spatial=[network.spatial], config=config)
