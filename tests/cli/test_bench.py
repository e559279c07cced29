"""sige-deploy bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sige_deploy as sige

from .conftest import Sige


def test_bench_prints_writes_and_calibrates(cli: Sige, three_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = cli(
        "bench", three_copy, "--edits", "5,100", "--shape", "both", "--repeats", 2, "--threads", 1,
        "--json", tmp_path / "r.json", "--plot", tmp_path / "p.png", "--calibrate",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "planned ms" in done.out and "blobs" in done.out and "never" in done.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert [(e["share"], e["shape"]) for e in result["edits"]] == [
        (0.05, "square"), (1.0, "square"), (0.05, "blobs"), (1.0, "blobs")
    ]  # fmt: skip
    planner = sige.open_bundle(three_copy).manifest.planner
    assert planner.calibrated and planner.dense_above == pytest.approx(result["dense_above"])
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_bench_errors(cli: Sige, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["--edits", "5", "--repeats", 1, "--threads", 1]
    assert "above 0 and up to 100" in cli("bench", three, "--edits", "0,5").sentence()
    assert "cannot write" in cli("bench", three, *quick, "--json", tmp_path / "no/r.json").sentence()
    pytest.importorskip("matplotlib")
    assert "name a .png" in cli("bench", three, *quick, "--plot", tmp_path / "p.xyz").sentence()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    done = cli("bench", three, *quick, "--plot", tmp_path / "p.png")
    assert "plots need matplotlib; run pip install" in done.sentence()
