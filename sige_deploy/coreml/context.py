"""What layers read besides their tensors: an edit's indices and the recorded state, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.indices import EditIndices, bucket
from sige_deploy.manifest import Manifest


@dataclass(frozen=True)
class Context:
    """The shared context of an edit.

    counts: active pixels of each level, at most the rows of the bucket; active: int32 [P] by level; tables
    int32 [R, K] and halos int32 [Q] by geometry, with P and R of the bucket and entries as docs/ops.md says;
    arrays: bases [1, N, C] and recorded affines [1, 1, C] by cache name.
    """

    counts: Mapping[str, int]
    active: Mapping[str, np.ndarray]
    tables: Mapping[str, np.ndarray]
    halos: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray]


def context_of(
    indices: EditIndices,
    rows: Mapping[str, int],
    manifest: Manifest,
    phases: Mapping[str, int],
    arrays: Mapping[str, np.ndarray],
) -> Context:
    """The context of an edit whose levels are padded to `rows`, by level id; phases: of each geometry, by id.

    Raises InputError where an edit has more active pixels than that.
    """
    for level, count in indices.counts.items():
        if count > rows[level]:
            raise InputError(
                f"The edit has {count} active pixels at level {level}, the bucket {rows[level]} rows; "
                "use a larger one."
            )
    tables, halos = {}, {}
    for geometry in manifest.geometries:
        if f"table.{geometry.id}" not in indices.feeds:
            continue
        table = indices.feeds[f"table.{geometry.id}"]
        before = _padded(indices, geometry.source)
        moved = (rows[geometry.source] - before) * phases[geometry.id]
        table = np.where(table >= before * phases[geometry.id], table + np.int32(moved), table)
        tables[geometry.id] = _to_length(table, rows[geometry.target])
        halos[geometry.id] = indices.feeds[f"halo.{geometry.id}"]
    active = {level: _to_length(indices.active(level), rows[level]) for level in indices.counts}
    return Context(dict(indices.counts), active, tables, halos, arrays)


def pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows [1, P, C] as a tensor [1, C, 1, count] of a model, the last row repeated; P is 1 or more."""
    return np.ascontiguousarray(_to_length(rows[0], count).T[None, :, None])


def _to_length(array: np.ndarray, length: int) -> np.ndarray:
    """The first `length` entries, the last one again where there are fewer; zeros where there are none."""
    if len(array) == 0:
        return np.zeros((length, *array.shape[1:]), array.dtype)
    return np.ascontiguousarray(array[np.minimum(np.arange(length), len(array) - 1)])


def _padded(indices: EditIndices, level: str) -> int:
    """The count that the feeds' tables were made for."""
    return bucket(indices.counts[level])
