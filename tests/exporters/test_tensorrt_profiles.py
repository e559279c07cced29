"""Optimisation profiles from row buckets."""

from __future__ import annotations

from pathlib import Path

import sige_deploy as sige
from sige_deploy.buckets import Buckets, compact
from sige_deploy.exporters.tensorrt_profiles import SHARES, profiles, shapes
from sige_deploy.indices import bucket
from sige_deploy.manifest import InputSpec, LevelSpec, Manifest, OutputSpec

SIZES = {"256x512": (256, 512), "64x128": (64, 128), "25x25": (25, 25)}


def manifest() -> Manifest:
    axes = ["N", "C", "Y", "X"]
    image = InputSpec.model_validate(
        {"name": "image", "shape": [1, 3, 256, 512], "dtype": "float16", "role": "spatial",
         "level": "256x512", "axes": axes}
    )  # fmt: skip
    levels = [LevelSpec(id=id_, height=h, width=w, macs=h * w) for id_, (h, w) in SIZES.items()]
    output = OutputSpec(name="y", shape=[1], dtype="float16")
    return Manifest(
        name="n", inputs=[image], outputs=[output], levels=levels, precision="float16", macs=1, parameters=1
    )


def test_every_bucket_fits_a_profile_and_small_ones_a_small_profile() -> None:
    made = profiles(manifest())
    assert len(made) == len(SHARES)
    for share, rows in Buckets(manifest()).listed():
        own = next(profile for profile, most in zip(made, SHARES) if share <= most)
        assert all(rows[id_] <= own[id_][2] for id_ in SIZES)
    assert made[-1] == {id_: (0, made[-1][id_][1], bucket(h * w)) for id_, (h, w) in SIZES.items()}
    assert made[-1]["25x25"][2] == 640  # what a host pads 625 pixels to


def test_levels_are_tuned_for_one_compact_edit() -> None:
    known = [rows for _, rows in compact(manifest())]
    for profile in profiles(manifest()):
        assert {id_: best for id_, (_, best, _) in profile.items()} in known


def test_shares_rise_to_the_whole_network() -> None:
    listed = Buckets(manifest()).listed()
    shares = [share for share, _ in listed]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert listed[-1][1] == {id_: h * w for id_, (h, w) in SIZES.items()}


def test_inputs_take_their_shapes_from_levels_and_geometries(tiny_path: Path) -> None:
    tiny = sige.open_bundle(tiny_path).manifest
    level, geometry = tiny.levels[0].id, tiny.geometries[0].id
    dims = {
        "rows.image": [2, "P", 3],
        f"active.{level}": ["P"],
        f"table.{geometry}": ["P", 9],
        f"halo.{geometry}": ["Q"],
        "base.x": [2, 384, 3],
    }
    assert shapes(dims, {level: (0, 16, 100)}, tiny) == {
        "rows.image": ((2, 0, 3), (2, 16, 3), (2, 100, 3)),
        f"active.{level}": ((0,), (16,), (100,)),
        f"table.{geometry}": ((0, 9), (16, 9), (100, 9)),
        f"halo.{geometry}": ((0,), (384,), (384,)),
    }
