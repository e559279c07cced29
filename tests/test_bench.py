"""Benchmarks: the workload is what it says, times are interleaved, the planner follows from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sige_deploy as sige
from sige_deploy import bench
from sige_deploy.bench import Case, calibrated, interleaved, pays_after
from sige_deploy.errors import InputError
from sige_deploy.manifest import InputSpec, Manifest
from sige_deploy.workload import make_edit, make_inputs, make_mask


def labels(channels: int = 12) -> Manifest:
    """A manifest whose input is a one-hot label map, beside a smaller image, a number and a flag."""
    spatial = {"role": "spatial", "axes": ["N", "C", "Y", "X"]}
    return Manifest.model_validate(
        {
            "name": "labels",
            "inputs": [
                {
                    "name": "label",
                    "shape": [2, channels, 32, 64],
                    "dtype": "float32",
                    "level": "a",
                    **spatial,
                },
                {"name": "image", "shape": [2, 3, 16, 32], "dtype": "uint8", "level": "b", **spatial},
                {"name": "time", "shape": [], "dtype": "int64", "role": "free"},
                {"name": "flag", "shape": [1], "dtype": "bool", "role": "free"},
                {"name": "scale", "shape": [1], "dtype": "float16", "role": "free"},
            ],
            "outputs": [],
            "levels": [{"id": "a", "height": 32, "width": 64}, {"id": "b", "height": 16, "width": 32}],
            "precision": "float32",
            "macs": 0,
            "parameters": 0,
        }
    )


def test_inputs_fit_the_manifest() -> None:
    manifest = labels()
    inputs = make_inputs(manifest)
    for spec in manifest.inputs:
        assert list(inputs[spec.name].shape) == spec.shape and inputs[spec.name].dtype == spec.dtype
    label = inputs["label"]
    assert set(np.unique(label)) == {0.0, 1.0} and (label.sum(axis=1) == 1).all()
    assert (label.max(axis=(0, 2, 3)) > 0).sum() > 4
    assert all(np.array_equal(make_inputs(manifest)[name], array) for name, array in inputs.items())
    assert not np.array_equal(make_inputs(manifest, seed=1)["label"], label)


def test_few_channels_are_no_labels() -> None:
    assert make_inputs(labels(4))["label"].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", ["square", "blobs"])
@pytest.mark.parametrize("share", [0.0001, 0.012, 0.3, 0.6, 1.0])
def test_an_edit_changes_its_share(shape: bench.Shape, share: float) -> None:
    manifest = labels()
    inputs = make_inputs(manifest)
    edited, mask = make_edit(manifest, inputs, share, shape)
    assert mask.sum() == pytest.approx(max(share * mask.size, 1), abs=np.sqrt(mask.size) / 2)
    assert np.array_equal((edited["label"] != inputs["label"]).any(axis=(0, 1)), mask)
    assert (edited["label"].sum(axis=1) == 1).all()
    assert (edited["image"] != inputs["image"]).any(axis=(0, 1)).any()
    assert all(edited[name] is inputs[name] for name in ("time", "flag", "scale"))


def test_a_square_is_one_and_blobs_are_many() -> None:
    square = make_mask(64, 64, 0.1, "square")
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert abs(rows.size - columns.size) <= 1 and square.sum() == rows.size * columns.size
    blobs = make_mask(64, 64, 0.1, "blobs")
    assert blobs.sum() == round(0.1 * blobs.size)
    assert np.ptp(np.flatnonzero(blobs.any(axis=1))) > 30
    assert make_mask(16, 64, 0.5, "square").sum() == 16 * 32  # a rectangle where the border cuts the square


def test_runs_take_turns_and_are_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SETTLE", 0)
    order: list[str] = []
    outputs = {
        "float": np.zeros(3, np.float16), "int": np.zeros(2, np.int8), "flag": np.zeros(2, bool)
    }  # fmt: skip

    def run(name: str) -> dict[str, np.ndarray]:
        order.append(name)
        return outputs

    times = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, 3)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [3, 3]
    assert np.isnan(outputs["float"]).all() and (outputs["int"] == 127).all() and outputs["flag"].all()


def case(fraction: float, ratio: float, shape: bench.Shape = "square") -> Case:
    return Case(
        share=fraction, shape=shape, active_fraction=fraction, rows={}, dense_ms=ratio, sparse_ms=1.0,
        stages={}, planned_ms=1.0, planned_path="sparse", ratio=ratio, pays_after=None,
    )  # fmt: skip


def test_calibration_interpolates_the_crossing() -> None:
    crossing, dense_above = calibrated([case(0.2, 2.0), case(0.6, 1 / 1.5), case(0.1, 4.0)])
    assert crossing == pytest.approx(0.4)
    assert dense_above == pytest.approx(0.38)


def test_calibration_takes_the_worse_shape() -> None:
    cases = [case(0.2, 2.0), case(0.6, 0.5), case(0.2, 2.0, "blobs"), case(0.3, 0.8, "blobs")]
    assert 0.2 < (calibrated(cases)[0] or 0) < 0.3


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([case(0.1, 4.0), case(1.0, 1.2)], (None, 1.0)),
        ([case(0.1, 4.0), case(0.3, 1.2)], (None, 0.3)),
        ([case(0.1, 0.5), case(1.0, 0.2)], (0.0, 0.0)),
        ([case(0.1, 1.0), case(1.0, 0.2)], (0.0, 0.0)),
    ],
)
def test_calibration_without_a_crossing(cases: list[Case], expected: tuple[float | None, float]) -> None:
    assert calibrated(cases) == expected


def test_pays_after() -> None:
    assert pays_after(overhead_ms=50, sparse_ms=10, dense_ms=30) == 3
    assert pays_after(overhead_ms=0.1, sparse_ms=10, dense_ms=30) == 1
    assert pays_after(overhead_ms=-1, sparse_ms=10, dense_ms=30) == 1
    assert pays_after(overhead_ms=50, sparse_ms=30, dense_ms=30) is None


def test_bench_measures_sparse_and_what_the_planner_gives(tiny_copy: Path) -> None:
    bundle = sige.open_bundle(tiny_copy)
    seen: list[tuple[str, int, int]] = []
    result = bench.bench(bundle, (2, 100), ("square",), 2, 1, progress=lambda *call: seen.append(call))
    small, whole = result.edits
    assert (small.planned_path, whole.planned_path) == ("sparse", "dense")
    assert whole.active_fraction == 1.0 and whole.rows == {"16x24": 16 * 24}
    assert all(stage in whole.stages for stage in ("check", "index", "run", "write"))
    assert result.cache_bytes == sum(4 * int(np.prod(c.shape)) for c in bundle.manifest.caches)
    assert seen[0] == ("record", 0, 3) and seen[-1] == ("done", 3, 3)
    assert sige.open_bundle(tiny_copy).manifest.planner.dense_above == 0.6


def test_result_as_json(tiny_copy: Path) -> None:
    result = bench.bench(sige.open_bundle(tiny_copy), (5,), ("blobs",), 1, 1)
    data = json.loads(json.dumps(result.to_json()))
    assert set(data) == {
        "benchmark", "bundle", "bundle_id", "runtime", "threads", "repeats", "seed", "dense_ms", "record_ms",
        "cache_bytes", "edits", "crossing", "dense_above", "date", "machine", "versions",
    }  # fmt: skip
    assert set(data["edits"][0]) == {
        "share", "shape", "active_fraction", "rows", "dense_ms", "sparse_ms", "stages", "planned_ms",
        "planned_path", "ratio", "pays_after",
    }  # fmt: skip
    assert data["versions"]["onnxruntime"] and data["machine"]["processor"]
    assert data["edits"][0]["ratio"] == pytest.approx(
        data["edits"][0]["dense_ms"] / data["edits"][0]["sparse_ms"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"edits": ()}, "above 0 and up to 100"),
        ({"edits": (101,)}, "above 0 and up to 100"),
        ({"shapes": ("star",)}, "square and blobs"),
        ({"shapes": ()}, "square and blobs"),
        ({"repeats": 0}, "1 or more"),
        ({"threads": 0}, "threads is a count"),
    ],
)
def test_bench_refuses(tiny_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        bench.bench(sige.open_bundle(tiny_path), **arguments)  # type: ignore[arg-type]


def test_plot(tiny_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = bench.bench(sige.open_bundle(tiny_copy), (5,), ("square",), 1, 1)
    both = replace(result, edits=[case(0.01, 3.0), case(0.3, 2.0), case(0.01, 2.0, "blobs")])
    bench.plot(both, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(InputError, match=r"cannot write plot"):
        bench.plot(both, tmp_path / "absent" / "plot.png")


def test_input_specs_without_channels_are_no_labels() -> None:
    spec = InputSpec(name="x", shape=[32, 64], dtype="float32", role="spatial", level="a", axes=["Y", "X"])
    manifest = labels().model_copy(update={"inputs": [spec]})
    edited, mask = make_edit(manifest, make_inputs(manifest), 0.1, "square")
    assert edited["x"].shape == (32, 64) and mask.any()
