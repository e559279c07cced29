"""The C++ library's buckets are Python's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpp_library import ROOT, run

from sige_deploy.buckets import Buckets
from sige_deploy.manifest import InputSpec, LevelSpec, Manifest, OutputSpec, PolicySpec

pytestmark = pytest.mark.xdist_group("cpp buckets")  # the build is made once


@pytest.fixture(scope="module")
def program(needs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("buckets") / "buckets"
    json = next(setting.split("=")[1] for setting in needs if "JSON" in setting)
    library, kernels = ROOT / "runtimes" / "cpp", ROOT / "plugins" / "kernels"
    sources = [library / "src" / f"{name}.cpp" for name in ("buckets", "manifest", "manifest_fit", "arrays")]
    headers = [f"-I{library / 'src'}", f"-I{library / 'include'}", f"-I{kernels / 'include'}"]
    # Functions that nothing calls are left out, with what they need.
    settings = ["-std=c++17", "-ffunction-sections", "-Wl,--gc-sections", *headers, f"-I{json}"]
    run("g++", *settings, ROOT / "tests/runtimes/cpp_buckets/main.cpp", *sources, "-o", made)
    return made


def random_manifest(rng: np.random.Generator) -> Manifest:
    height, width = (int(n) for n in rng.integers(1, 300, 2))
    sizes = {(height, width)}
    for _ in range(rng.integers(0, 6)):
        step = 2.0 ** rng.integers(-1, 6)
        sizes.add((max(int(height / step), 1), max(int(width / step), 1)))
    counted = rng.random() < 0.8
    levels = [
        LevelSpec(
            id=f"{h}x{w}", height=h, width=w,
            granularity=int(rng.choice([1, 1, 2, 3, 8])), dilation=int(rng.integers(0, 4)),
            macs=int(rng.integers(0, 10**12)) if counted else 0,
        )
        for h, w in sorted(sizes)
    ]  # fmt: skip
    image = InputSpec(
        name="image", shape=[1, 3, height, width], dtype="float32", role="spatial",
        level=f"{height}x{width}", axes=["N", "C", "Y", "X"],
    )  # fmt: skip
    output = OutputSpec(name="y", shape=[1], dtype="float32")
    policy = PolicySpec(dilate=int(rng.integers(0, 4)))
    return Manifest(
        name="n", inputs=[image], outputs=[output], levels=levels, policy=policy, precision="float32",
        macs=1, parameters=1,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_equal_rows(program: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    manifest = random_manifest(rng)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    buckets = Buckets(manifest)
    known = np.array([list(rows.values()) for _, rows in buckets.listed()])
    fewer = np.maximum(known - rng.integers(0, 9, known.shape), 0)
    counts = np.concatenate([known, fewer, (known[-1] * rng.random((200, known.shape[1])) ** 3).astype(int)])
    lines = "".join(" ".join(map(str, row)) + "\n" for row in counts.tolist())
    answers = run(program, tmp_path / "manifest.json", input=lines).splitlines()
    wanted = [list(buckets.fit(dict(zip(buckets.levels, row))).values()) for row in counts.tolist()]
    assert [[int(rows) for rows in answer.split()] for answer in answers] == wanted
