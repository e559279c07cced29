"""How far float16 and sparse edits are from the float32 dense network, on the trained street network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from networks import build

import sige_deploy as sige
from sige_deploy.bench import always_sparse
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.compare import psnr
from sige_deploy.runtimes.base import create


def street(folder: Path, device: str) -> list[dict[str, object]]:
    """PSNR in dB against float32 dense, one entry per edit of the demo's scene: the dense network in float16,
    edits in float16 and in float32. The peak is the range of the dense output."""
    from sige_deploy.street.demo_scene import demo_scene, one_hot

    label, edits = demo_scene()
    scenes = [one_hot(edited) for _, edited in edits]
    reference = _dense(scenes, torch.float32)
    ways = {"dense float16": _dense(scenes, torch.float16)}
    for precision in ("float16", "float32"):
        bundle = open_bundle(folder / f"street.{precision}.sige")
        ways[f"edit {precision}"] = _edits(bundle, one_hot(label), scenes, device)
    return [
        {
            "edit": name,
            "area": float(np.mean(edited != label)),
            **{way: _psnr(images[i], reference[i]) for way, images in ways.items()},
        }
        for i, (name, edited) in enumerate(edits)
    ]


@torch.no_grad()
def _dense(scenes: list[np.ndarray], dtype: torch.dtype) -> list[np.ndarray]:
    module = build("street").cuda().to(dtype)
    return [module(torch.from_numpy(scene).cuda().to(dtype)).float().cpu().numpy() for scene in scenes]


def _edits(bundle: Bundle, label: np.ndarray, scenes: list[np.ndarray], device: str) -> list[np.ndarray]:
    sparse = always_sparse(bundle)
    (spec,), (output,) = bundle.manifest.spatial(), bundle.manifest.outputs
    with sige.Session(sparse, create(None, sparse, device, None)) as session:
        session.record(**{spec.name: label.astype(spec.dtype)})
        return [
            session.edit(**{spec.name: scene.astype(spec.dtype)})[output.name].astype(np.float32)
            for scene in scenes
        ]


def _psnr(image: np.ndarray, reference: np.ndarray) -> float:
    return round(psnr(image, reference, float(np.ptp(reference))), 2)
