"""The networks that network.py measures: float32 torch modules with the same weights at every call."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import sige_deploy as sige

SEED = 0


@dataclass(frozen=True)
class Network:
    """build: the module in eval mode, on the CPU. inputs: of its forward, by name; float ones are float32.
    spatial: the input that edits change."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    spatial: str


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


NETWORKS = {
    "ddpm": Network(
        _ddpm, lambda: {"sample": torch.zeros(1, 3, 256, 256), "timestep": torch.tensor([500])}, "sample"
    ),
    "gaugan": Network(_gaugan, lambda: {"label": torch.zeros(1, 36, 256, 512)}, "label"),
    "street": Network(_street, _street_inputs, "label"),
}


def build(name: str) -> nn.Module:
    """The float32 module, weights by SEED where they are random."""
    torch.manual_seed(SEED)
    return NETWORKS[name].build()


def bundles(name: str) -> dict[str, str]:
    """File name of a bundle -> its precision; fidelity needs the trained network in float32 as well."""
    files = {f"{name}.float16.sige": "float16"}
    return files | {f"{name}.float32.sige": "as_given"} if name == "street" else files


def export_missing(names: Sequence[str], folder: Path) -> None:
    """Export the bundles that the folder lacks, each in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    work = [
        (name, folder / file, precision)
        for name in names
        for file, precision in bundles(name).items()
        if not (folder / file).exists()
    ]
    if work:
        with multiprocessing.get_context("spawn").Pool(len(work)) as pool:
            pool.starmap(_export, work)


def _export(name: str, path: Path, precision: str) -> None:
    network = NETWORKS[name]
    config = sige.SparseConfig(precision=precision)
    sige.export(build(name), network.inputs(), path, spatial=[network.spatial], config=config)
