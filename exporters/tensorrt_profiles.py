"""Optimisation profiles of an edit engine, from the row buckets of its bundle.

The levels of an edit grow together, so a profile is a range of buckets: at each level up to the most rows of
any, tuned for a compact edit of middle size. No level has a least number of rows, for an edit may leave one
without any. Small edits get a profile of their own, as what is best for a few rows is not for many, and as it
needs less memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low

from sige_deploy.buckets import Buckets, compact
from sige_deploy.indices import bucket
from sige_deploy.manifest import Manifest

#: Largest share of the network's work of an edit, for each profile; the last one takes every edit.
SHARES = (1 / 16, 1 / 4, 1.0)

Profile = dict[str, tuple[int, int, int]]


def profiles(manifest: Manifest) -> list[Profile]:
    """(least, best, most) rows of each level by id, one for each share that has buckets of its own, smallest
    first."""
    buckets, edits = Buckets(manifest).listed(), compact(manifest)
    made: list[Profile] = []
    lower = -1.0
    for upper in SHARES:
        last = upper == SHARES[-1]
        within, common = (
            [rows for share, rows in sizes if lower < share and (share <= upper or last)]
            for sizes in (buckets, edits)
        )
        if not within:
            continue
        lower = upper
        tuned = common or within  # small networks have few sizes
        best = tuned[median_low(range(len(tuned)))]
        profile = {}
        for level in manifest.levels:
            # What hosts pad to may exceed the level's pixels.
            most = bucket(level.height * level.width) if last else max(rows[level.id] for rows in within)
            profile[level.id] = 0, best[level.id], most
        made.append(profile)
    return made


def shapes(
    dims: Mapping[str, Sequence[int | str]], profile: Profile, manifest: Manifest
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(least, best, most) shapes of the edit graph's inputs whose size varies, by name.

    dims: of each input, by name; a text is the size that varies: the rows of the input's level, or of the
    level that a table is for. A halo has any size up to its source level's pixels, and these are what
    sessions on a GPU give it.
    """
    pixels = {level.id: level.height * level.width for level in manifest.levels}
    ranges = {f"active.{id_}": rows for id_, rows in profile.items()}
    ranges |= {f"rows.{spec.name}": profile[spec.level or ""] for spec in manifest.spatial()}
    for geometry in manifest.geometries:
        whole = pixels[geometry.source]
        ranges[f"halo.{geometry.id}"] = 0, whole, bucket(whole)
        ranges[f"table.{geometry.id}"] = ranges[f"weights.{geometry.id}"] = profile[geometry.target]
    made = {}
    for name, shape in dims.items():
        if not all(isinstance(size, int) for size in shape):
            least, best, most = (
                tuple(size if isinstance(size, int) else rows for size in shape) for rows in ranges[name]
            )
            made[name] = least, best, most
    return made
