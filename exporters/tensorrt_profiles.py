"""Optimisation profiles of an edit engine, from the row buckets of its bundle.

The levels of an edit grow together, so a profile is a range of buckets: at each level up to the rows of the
largest, tuned for those of the middle one. No level has a least number of rows, for an edit may leave one
without any. Small edits get a profile of their own, as what is best for a few rows is not for many, and as
it needs less memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low

from sige_deploy.buckets import Buckets
from sige_deploy.indices import bucket
from sige_deploy.manifest import Manifest

#: Largest share of the network's work of an edit, for each profile; the last one takes every edit.
SHARES = (1 / 16, 1 / 4, 1.0)

Profile = dict[str, tuple[int, int, int]]
Dims = Sequence[int | str]


def profiles(manifest: Manifest) -> list[Profile]:
    """(least, best, most) rows of each level by id, one for each share that has buckets of its own, smallest
    first."""
    buckets = Buckets(manifest).listed()
    made: list[Profile] = []
    lower = -1.0
    for upper in SHARES:
        last = upper == SHARES[-1]
        within = [rows for share, rows in buckets if lower < share and (share <= upper or last)]
        if not within:
            continue
        lower = upper
        best = within[median_low(range(len(within)))]
        profile = {}
        for level in manifest.levels:
            # What hosts pad to may exceed the level's pixels.
            most = bucket(level.height * level.width) if last else max(rows[level.id] for rows in within)
            profile[level.id] = 0, best[level.id], most
        made.append(profile)
    return made


def shapes(
    dims: Mapping[str, Dims], profile: Profile, manifest: Manifest
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(least, best, most) shapes of the edit graph's inputs whose size varies, by name.

    dims: of each input, by name; a text is "P_<level>", rows of a level, or "Q_<geometry>", a halo: it has
    any size up to the source level's pixels, which is also what sessions on a GPU give it.
    """
    pixels = {level.id: level.height * level.width for level in manifest.levels}
    ranges: dict[str, tuple[int, int, int]] = {f"P_{id_}": rows for id_, rows in profile.items()}
    for geometry in manifest.geometries:
        whole = pixels[geometry.source]
        ranges[f"Q_{geometry.id}"] = 0, whole, bucket(whole)
    return {
        name: tuple(tuple(d if isinstance(d, int) else ranges[d][i] for d in shape) for i in range(3))  # type: ignore[misc]
        for name, shape in dims.items()
        if not all(isinstance(d, int) for d in shape)
    }
