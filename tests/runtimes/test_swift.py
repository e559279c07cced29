"""The pure part of the Swift package on Linux: equal masks, tables, rows and reports with Python."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import swift_package as swift
from swift_networks import NETWORKS, H, Network, W
from swift_package import Script

from sige_deploy import planner, rows
from sige_deploy.bundle import open_bundle
from sige_deploy.indices import Indexer
from sige_deploy.manifest import InputSpec
from sige_deploy.masks import difference_mask, resample_mask

pytestmark = pytest.mark.xdist_group("swift")
Edit = tuple[dict[str, np.ndarray], np.ndarray | None]  # inputs, mask


def drawn(spec: InputSpec, rng: np.random.Generator) -> np.ndarray:
    values = 8 * rng.standard_normal(spec.shape) if spec.dtype[0] == "f" else rng.integers(0, 100, spec.shape)
    return np.asarray(values).astype(spec.dtype)


def edits(network: Network, rng: np.random.Generator) -> list[Edit]:
    """Recorded inputs first; then edited ones with masks or None."""
    recorded = {spec.name: drawn(spec, rng) for spec in network.manifest.inputs}
    made: list[Edit] = [(recorded, None)]
    spec = network.manifest.inputs[0]
    for size in (1, 5, 11, H):
        edited = {name: array.copy() for name, array in recorded.items()}
        top, left = rng.integers(0, H - size + 1), rng.integers(0, W - size + 1)
        view = rows.planes(spec, edited["image"])
        view[..., top : top + size, left : left + size] += rng.integers(0, 5, size=1).astype(spec.dtype) + 1
        made.append((edited, None))
    mask = np.zeros((H, W), bool)
    mask[3:9, 20:27] = mask[H - 1, W - 1] = True
    made.append((made[-1][0], mask))
    made.append((made[-1][0], rng.random((H, W)) < 0.02))
    made.append((recorded, np.zeros((H, W), bool)))
    free = {**recorded, "offset": np.array(3.5)}
    made += [(free, None), (free, np.zeros((H, W), bool))]
    small = {**recorded, "small": recorded["small"].copy()}
    small["small"][5, 3] += 7
    return [*made, (small, None)]


def edited_pixels(
    network: Network, now: dict[str, np.ndarray], then: dict[str, np.ndarray], mask: np.ndarray | None
) -> list[np.ndarray]:
    policy = network.manifest.policy
    spatial = network.manifest.spatial()
    if mask is not None:
        return [resample_mask(mask, rows.size(spec), policy.threshold) for spec in spatial]
    return [
        difference_mask(rows.planes(spec, now[spec.name]), rows.planes(spec, then[spec.name]), policy.eps)
        for spec in spatial
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_rows_and_outputs_have_the_bits_of_python(
    name: str, swift_script: Script, tmp_path: Path
) -> None:
    network = NETWORKS[name]
    folder = network.write(tmp_path / "bundle")
    rng = np.random.default_rng(len(name))
    manifest = network.manifest
    indexer = Indexer(network.levels(), network.geometries, network.policy())
    work = planner.Work(manifest.levels)
    cases = edits(network, rng)
    recorded = cases[0][0]
    expected, wanted, paths = [], [], set()
    for now, mask in cases:
        active = indexer.activate(edited_pixels(network, now, recorded, mask))
        indices = indexer.feed(active)
        counts = [indices.counts[level.id] for level in manifest.levels]
        fraction = work.active_fraction(indices.counts) if any(counts) else 0.0
        path = "dense" if fraction > manifest.planner.gpu_dense_above else "sparse"
        if not any(counts):
            path = "dense" if now["offset"] != recorded["offset"] and mask is None else "reuse"
            fraction = 1.0 if path == "dense" else 0.0
        paths.add(path)
        bits = f"{struct.unpack('>Q', struct.pack('>d', fraction))[0]:x}"
        expected.append(f"ok {path} {bits} -1 {counts}")
        arrays, results = {}, dict(indices.feeds)
        for spec in manifest.spatial():
            pixels = indices.active(spec.level or "")
            results[f"rows.{spec.name}"] = rows.take(spec, now[spec.name], pixels)
        for spec in manifest.outputs[:2]:
            pixels = indices.active(spec.level or "")
            shape = {"picture": (1, pixels.size, 6), "tokens": (2, pixels.size, 4)}[spec.name]
            fresh, output = (rng.standard_normal(s).astype(spec.dtype) for s in (shape, spec.shape))
            arrays |= {f"fresh.{spec.name}": fresh, f"output.{spec.name}": output.copy()}
            rows.put_output(spec, output, fresh, pixels)
            results[f"output.{spec.name}"] = output
        if mask is not None:
            arrays["mask"] = mask
        arrays |= {f"given.{k}": v for k, v in now.items()} | {
            f"recorded.{k}": v for k, v in recorded.items()
        }
        result = swift_script.result()
        swift_script.add("edit", folder, swift_script.file(**arrays), result)
        wanted.append((result, results))
    assert swift_script.run() == expected
    assert paths == {"sparse", "dense", "reuse"}
    for result, results in wanted:
        made = swift.read(result)
        assert made.keys() == results.keys()
        for key, array in results.items():
            assert made[key].dtype == array.dtype and made[key].shape == array.shape, key
            assert made[key].tobytes() == array.tobytes(), key


SIZES = [(24, 32), (12, 16), (7, 5), (48, 96), (3, 32), (1, 1), (24, 33), (5, 64)]


@pytest.mark.parametrize("share", [0.0, 0.003, 0.2, 1.0])
def test_masks_of_other_sizes_are_python_s(share: float, swift_script: Script) -> None:
    rng = np.random.default_rng(4)
    mask = rng.random((H, W)) < share
    file = swift_script.file(mask=mask)
    wanted = []
    for height, width in SIZES:
        for threshold in (0.0, 0.3, 1.0):
            result = swift_script.result()
            swift_script.add("resample", file, height, width, threshold, result)
            wanted.append((result, resample_mask(mask, (height, width), threshold)))
    assert set(swift_script.run()) == {"ok done"}
    for result, want in wanted:
        np.testing.assert_array_equal(swift.read(result)["mask"].astype(bool), want)


def test_all_halves_and_many_floats_convert_as_in_numpy(swift_script: Script) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rng = np.random.default_rng(5)
    floats = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    floats = np.concatenate(
        [floats, halves.astype(np.float32), rng.standard_normal(1 << 14).astype(np.float32)]
    )
    edges = np.array([65519.9, 65520, 2**-25, 1.5 * 2**-25, 2**-14, 2**-24], np.float32)
    floats = np.concatenate([floats, edges])
    result = swift_script.result()
    swift_script.add("halves", swift_script.file(halves=halves, floats=floats), result)
    assert swift_script.run() == ["ok done"]
    made = swift.read(result)
    with np.errstate(over="ignore", invalid="ignore"):
        want = floats.astype(np.float16)
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(np.isnan(made["halves"]), np.isnan(want))
    np.testing.assert_array_equal(made["halves"].view(np.uint16)[finite], want.view(np.uint16)[finite])
    numbers = ~np.isnan(halves)
    np.testing.assert_array_equal(
        made["floats"].view(np.uint32)[numbers], halves.astype(np.float32).view(np.uint32)[numbers]
    )
    assert np.isnan(made["floats"][~numbers]).all()


def test_a_bundle_has_the_id_of_python(swift_script: Script, tiny_path: Path) -> None:
    swift_script.add("id", tiny_path)
    assert swift_script.run() == [f"ok {open_bundle(tiny_path).id}"]
