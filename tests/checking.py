"""Exporting an entry and comparing what its session returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from reference import Reference
from torch import Tensor
from zoo import ZOO, Entry

import sige_deploy as sige
from sige_deploy.masks import level_masks, resample_mask
from sige_deploy.session import Session

Inputs = dict[str, Tensor]


@dataclass
class Exported:
    """An exported entry with its session recorded on `recorded`."""

    entry: Entry
    session: Session
    recorded: Inputs
    outputs: list[Tensor]

    def edit(self, inputs: Inputs, mask: np.ndarray) -> list[Tensor]:
        outputs = list(self.session.edit(**inputs, mask=mask).values())
        assert self.session.report.path == "sparse"
        return outputs

    def level_masks(self, mask: np.ndarray) -> dict[tuple[int, int], Tensor]:
        """Active masks of the bundle's levels, by size, for an edit's mask at the first input's size."""
        bundle = self.session.bundle
        policy = bundle.policy()
        sizes = [self.entry.inputs[name][-2:] for name in self.entry.spatial]
        masks = [resample_mask(mask, (h, w), policy.threshold) for h, w in sizes]
        geometries = {geometry.id: geometry for geometry in bundle.geometries()}
        levels = bundle.levels()
        by_id = level_masks(masks, levels, geometries, policy)
        return {(level.height, level.width): torch.from_numpy(by_id[level.id]) for level in levels}


def export(entry: Entry, path: Path, statistics: str) -> Exported:
    config = sige.SparseConfig(dense_above=1.0, statistics=statistics, **entry.config)
    spatial, free = list(entry.spatial), list(entry.free)
    sige.export(entry.module(), entry.example_inputs(0), path, spatial=spatial, config=config, free=free)
    session = sige.open(path, threads=1)
    recorded = entry.example_inputs(1)
    return Exported(entry, session, recorded, list(session.record(**recorded).values()))


@cache
def reference_of(name: str) -> Reference:
    """Of an entry of the zoo."""
    entry = ZOO[name]
    return Reference(entry.module(), entry.example_inputs(0), entry.spatial)


def dense(entry: Entry, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        out = entry.module()(**inputs)
    return [out] if isinstance(out, Tensor) else list(out)


def blob_and_dust(entry: Entry, seed: int) -> np.ndarray:
    """A rectangle and a few scattered pixels at the first spatial input's size, bool [H, W]."""
    rng = np.random.default_rng(seed)
    height, width = entry.inputs[entry.spatial[0]][-2:]
    mask = rng.random((height, width)) < 0.01
    y, x = rng.integers(0, height * 2 // 3), rng.integers(0, width * 2 // 3)
    mask[y : y + height // 4, x : x + width // 4] = True
    return mask


def edited(entry: Entry, recorded: Inputs, seed: int) -> Inputs:
    """Other values in all spatial inputs and in the free ones; the rest as recorded."""
    other = entry.example_inputs(seed)
    return {name: other[name] if name in entry.spatial + entry.free else recorded[name] for name in recorded}


def assert_same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Every output within `tolerance` of the range of the wanted values."""
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = float(b.max() - b.min())
        error = float((a - b).abs().max()) / scale
        assert error <= tolerance, f"output {i} is off by {error:.2e} of its range {scale:.3g}"
