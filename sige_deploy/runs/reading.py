"""What an edit of some pixels reads of a recorded state: the halos of its active pixels, and a few caches
whole (keys and values, statistics)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sige_deploy import caches, masks, planner
from sige_deploy.bundle import Bundle
from sige_deploy.devices.base import Needs
from sige_deploy.indices import Indexer
from sige_deploy.rows import size


@dataclass(frozen=True)
class Reading:
    """An edit's pixels, and what it reads for them.

    counts: active pixels by level id. fraction: of the network's work, 0 to 1. dense: whether the planner
    runs such an edit dense. nbytes: what it reads, as recorded.
    """

    needs: Needs
    counts: Mapping[str, int]
    fraction: float
    dense: bool
    nbytes: int


class Reader:
    """Finds what edits of one bundle read. gpu: whether they run on a GPU."""

    def __init__(self, bundle: Bundle, gpu: bool) -> None:
        self._manifest = manifest = bundle.manifest
        self._gpu = gpu
        self._indexer = Indexer(bundle.levels(), bundle.geometries(), bundle.policy())
        self._work = planner.Work(manifest.levels)
        self._reads = {f"cache.{c.name}": tuple(c.reads) for c in manifest.caches if c.reads is not None}
        self._entries = caches.expected(manifest)

    def read(self, mask: np.ndarray) -> Reading:
        """Of an edit with this mask, bool [H, W] at the first spatial input's size."""
        manifest = self._manifest
        edited = [masks.resample_mask(mask, size(s), manifest.policy.threshold) for s in manifest.spatial()]
        active = self._indexer.activate(edited)
        counts = active.counts
        fraction = self._work.active_fraction(counts) if any(counts.values()) else 0.0
        dense = planner.runs_dense(manifest.planner, fraction, self._gpu)
        if dense or not any(counts.values()):
            needs = Needs(caches=False)
        else:
            halos = {f"halo.{id_}" for ids in self._reads.values() for id_ in ids}
            feeds = self._indexer.feed(active, only=halos).feeds
            lists: dict[tuple[str, ...], np.ndarray] = {}  # caches of equal halos share one list
            for ids in self._reads.values():
                if ids not in lists:
                    read = [feeds[f"halo.{id_}"] for id_ in ids]
                    lists[ids] = np.unique(np.concatenate([np.zeros(0, np.int32), *read]))
            needs = Needs({name: lists[ids] for name, ids in self._reads.items()})
        return Reading(needs, counts, fraction, dense, self.nbytes(needs))

    def nbytes(self, needs: Needs) -> int:
        """Bytes, as recorded, of what is needed."""
        total = 0
        for name, (shape, dtype) in self._entries.items():
            if name.startswith("cache.") and not needs.caches:
                continue
            pixels = None if needs.rows is None else needs.rows.get(name)
            read = shape if pixels is None else (shape[0], pixels.size, shape[2])
            total += math.prod(read) * dtype.itemsize
        return total
