"""sige-deploy inspect: what a bundle holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sige_deploy.cli.arguments import BundleArgument, Json
from sige_deploy.cli.console import amount, busy, launched, share, show, show_json, size

if TYPE_CHECKING:
    from sige_deploy.bundle import Bundle
    from sige_deploy.manifest import CacheSpec, Manifest

SHORTEST = 12  # characters of a hash that are shown


def inspect(bundle: BundleArgument, json: Json = False) -> None:
    """Check a bundle and show what it holds: inputs, levels, caches, what stayed dense and why."""
    from sige_deploy.bundle import open_bundle

    with busy("check the files"):
        opened = open_bundle(bundle)
        engines = _engines(opened)
    manifest = opened.manifest
    if json:
        totals = {"cache_bytes": sum(map(cache_bytes, manifest.caches)), "bundle_id": opened.id}
        show_json({**manifest.model_dump(), **totals, "engines": engines})
        return
    tables = _tables(manifest, opened.id)
    for title, columns, rows in [*tables, ("Engines", ["folder", "for", "state"], engines)]:
        if rows:
            show(title, columns, rows)


def cache_bytes(cache: CacheSpec) -> int:
    import numpy as np

    return math.prod(cache.shape) * np.dtype(cache.dtype).itemsize


def _engines(bundle: Bundle) -> list[list[str]]:
    """Folder, what it is for, and whether it is whole and of this bundle."""
    from sige_deploy.engines import engine_folders, read_engine
    from sige_deploy.errors import BundleError

    rows = []
    for folder in engine_folders(bundle):
        try:
            manifest = read_engine(folder)
        except BundleError as error:
            rows.append([folder.name, "", str(error)])
            continue
        whole = "whole" if manifest.bundle == bundle.id else "of another bundle; build the engines anew"
        rows.append([folder.name, str(manifest), whole])
    return rows


def _tables(manifest: Manifest, bundle_id: str) -> list[tuple[str, list[str], list[list[str]]]]:
    inputs = [[i.name, _shape(i.shape), i.dtype, i.role, i.reason or ""] for i in manifest.inputs]
    outputs = [[o.name, _shape(o.shape), o.dtype, o.level or "not spatial"] for o in manifest.outputs]
    total = sum(level.macs for level in manifest.levels) or 1
    planner, policy = manifest.planner, manifest.policy
    about = [
        ["name", manifest.name],
        ["id", bundle_id],
        ["work", f"{amount(manifest.macs)} MACs"],
        ["parameters", f"{amount(manifest.parameters)}, {manifest.precision}"],
        ["an edit makes", launched(manifest.launches)],
        ["masks", f"eps {policy.eps:g}, dilate {policy.dilate}, threshold {policy.threshold:g}"],
        ["statistics", policy.statistics],
        [
            "planner",
            f"dense above {share(planner.dense_above)} of the work, "
            f"{'' if planner.calibrated else 'not '}calibrated",
        ],
        ["versions", f"schema {manifest.schema_version}, op set {manifest.op_set_version}"],
        ["producer", ", ".join(f"{package} {version}" for package, version in manifest.producer.items())],
    ]
    levels = [
        [
            x.id,
            str(x.granularity),
            str(x.dilation),
            amount(x.macs),
            share(x.macs / total),
            x.geometry or "inputs",
        ]
        for x in sorted(manifest.levels, key=lambda x: -x.height * x.width)
    ]
    files = [[name, size(f.bytes), f.sha256[:SHORTEST]] for name, f in manifest.files.items()]
    return [
        ("Bundle", ["", ""], about),
        ("Inputs", ["name", "shape", "dtype", "role", "reason"], inputs),
        ("Outputs", ["name", "shape", "dtype", "level"], outputs),
        ("Levels", ["level", ">granularity", ">dilation", ">MACs", ">share", "mask from"], levels),
        ("Caches", ["level", "dtype", ">arrays", ">channels", ">bytes"], _caches(manifest)),
        (
            "Dense islands",
            ["op", "node", ">bytes per edit", "reason"],
            [[i.op, i.node, size(i.bytes), i.reason] for i in manifest.islands],
        ),
        ("Rewrites refused", ["op", "node", "reason"], [[r.op, r.node, r.reason] for r in manifest.refusals]),
        ("Files", ["file", ">bytes", "sha256"], files),
    ]


def _caches(manifest: Manifest) -> list[list[str]]:
    """One line per level and dtype, constants apart, and the total."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for cache in manifest.caches:
        groups.setdefault((cache.level or "constants", cache.dtype), []).append(cache)
    lines = []
    pixels = {level.id: level.height * level.width for level in manifest.levels}
    for (level, dtype), caches in sorted(groups.items(), key=lambda group: -pixels.get(group[0][0], 0)):
        channels = sum(c.shape[-1] for c in caches if c.kind == "base")
        bytes_ = sum(map(cache_bytes, caches))
        lines.append([level, dtype, str(len(caches)), str(channels) if channels else "", size(bytes_)])
    if lines:
        total = sum(map(cache_bytes, manifest.caches))
        lines.append(["total", "", str(len(manifest.caches)), "", size(total)])
    return lines


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
