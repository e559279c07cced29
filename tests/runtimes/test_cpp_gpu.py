"""The C++ library on a GPU, against Python sessions on it: the same pixels, reports and sentences.

SIGE_CPP_DRIVER names the driver of tests/runtimes/cpp, built with -DSIGE_DRIVER_CUDA=ON, with the installed
libraries in the folder lib beside it, as docs/cpp.md says; without it both are built here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from cpp_library import Arrays, Script, driver_of, installed
from test_cpp_buffers import close, random_edits, same

import sige_deploy as sige
from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.base import create

pytestmark = pytest.mark.xdist_group("cpp gpu")  # one build, one GPU
NETWORKS = [
    "two_inputs",
    "bilinear_pools",
    "grid_attention",
    "island_flip",
    "pixel_shuffle",
    "batch2_time_unet",
]


@pytest.fixture(scope="module")
def gpu(tiny_path: Path) -> str:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch with CUDA")
    try:
        create(None, sige.open_bundle(tiny_path), "cuda:0", None).close()
    except RuntimeFailure as error:
        pytest.fail(f"sessions cannot use this machine's GPU: {error}")
    return "cuda:0"


@pytest.fixture(scope="module")
def driver(gpu: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("SIGE_CPP_DRIVER"):
        return Path(given).absolute()
    needs = [setting for setting in request.getfixturevalue("needs") if "SIGE_CUDA" not in setting]
    cuda = "-DSIGE_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"
    return driver_of(
        installed(needs, tmp_path_factory.mktemp("cpp_gpu"), *cuda, driver=("-DSIGE_DRIVER_CUDA=ON",))
    )


@pytest.fixture(scope="module")
def libraries(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """LD_LIBRARY_PATH of the driver: Python's ONNX Runtime with its providers, libsige, CUDA's libraries."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    capi, linked = Path(spec.origin).parent / "capi", tmp_path_factory.mktemp("onnxruntime_gpu")
    for file in capi.glob("libonnxruntime*.so*"):
        (linked / file.name).symlink_to(file)
    (linked / "libonnxruntime.so.1").symlink_to(next(capi.glob("libonnxruntime.so.1*")))
    packages = [Path(folder) / "nvidia" for folder in sys.path if folder]
    cuda = sorted({file.parent for package in packages for file in package.glob("**/lib*.so*")})
    beside = [driver.parent / "lib", driver.parent.parent / "prefix" / "lib"]
    return ":".join(map(str, [linked, *beside, *cuda, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]))


def said(report: sige.Report) -> str:
    rows = "".join(f" {level}={n}" for level, n in sorted(report.rows.items()))
    return f"ok {report.path} {report.active_fraction:.17g} {report.cache_bytes}{rows} | {report.runtime}"


def near(wanted: Arrays, got: Arrays) -> None:
    for name, array in wanted.items():
        bound = (1e-2 if array.dtype == np.float16 else 1e-4) * max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(got[name].astype(float), array.astype(float), rtol=0, atol=bound)


def compared(
    path: Path, device: str, driver: Path, libraries: str, script: Script, recorded: Arrays,
    edits: list[tuple[Arrays, np.ndarray | None]],
) -> list[str]:  # fmt: skip
    """Paths of the edits, each run by a Python session and by the C++ library from the state that the first
    one had, and committed by both."""
    results, reports = [], []
    with sige.open(path, device=device) as session:
        results.append(session.record(**recorded))
        reports.append(said(session.report))
        script.add(f"open {path} {device}").set(**recorded).call("record")
        for i, (inputs, mask) in enumerate(edits):
            session.save(script.folder / f"state{i}")
            results.append(session.edit(**inputs, mask=mask))
            reports += [said(session.report)]
            session.commit()
            script.add(f"load {script.folder}/state{i}", "nomask")
            if mask is not None:
                script.mask(mask)
            script.set(**inputs).call("edit").add("commit")
        outputs = session.bundle.manifest.outputs
    answers = script.run(driver, LD_LIBRARY_PATH=libraries)
    assert [answer for answer in answers if answer != "ok done"] == reports
    for ours, theirs in zip(script.outputs(outputs), results, strict=True):
        near(theirs, ours)
    return [report.split()[1] for report in reports]


def test_all_paths_of_the_tiny_network(
    gpu: str, driver: Path, libraries: str, tiny_copy: Path, script: Script
) -> None:
    sige.open_bundle(tiny_copy).update_planner(gpu_dense_above=0.6)
    base = tiny.inputs()
    small, wide = tiny.edited(base, slice(3, 6), slice(4, 9)), tiny.edited(base, slice(0, 16), slice(0, 23))
    free = {**base, "offset": base["offset"] + 1}
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[4, 5:9] = True
    edits: list[tuple[Arrays, Any]] = [
        (small, None),
        (wide, None),
        (free, None),
        (wide, mask),
        (wide, ~mask & mask),
    ]
    paths = compared(tiny_copy, gpu, driver, libraries, script, base, edits)
    assert set(paths) == {"record", "sparse", "dense", "reuse"}


@pytest.mark.parametrize("precision", ["as_given", "float16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_random_edits_of_networks(
    gpu: str, driver: Path, libraries: str, script: Script, network: str, precision: str
) -> None:
    from zoo.registry import ZOO

    entry, path, rng = ZOO[network], script.folder / "bundle", np.random.default_rng(1)
    config = sige.SparseConfig(**(entry.config | {"precision": precision}))
    bundle = sige.export(
        entry.module(), entry.example_inputs(), path, spatial=list(entry.spatial), config=config
    )
    bundle.update_planner(gpu_dense_above=0.9)
    dtypes = {i.name: i.dtype for i in bundle.manifest.inputs}
    given = {name: tensor.numpy().astype(dtypes[name]) for name, tensor in entry.example_inputs().items()}
    edits = random_edits(given, entry.spatial[0], rng)
    assert "sparse" in compared(path, gpu, driver, libraries, script, given, edits)


def test_captured_graphs_and_device_arrays_change_no_bit(
    gpu: str, driver: Path, libraries: str, tiny_path: Path, script: Script
) -> None:
    base, specs = tiny.inputs(), sige.open_bundle(tiny_path).manifest.outputs
    small = tiny.edited(base, slice(3, 6), slice(4, 9))
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[3:5, 4:9] = True
    for place, outputs in (("host", ""), ("cuda", "cuda")):
        script.add(f"open {tiny_path} {gpu} onnxruntime {outputs}", f"place {place}", "nomask")
        script.set(**base).call("record").set(**small)
        for _ in range(4):
            script.call("edit").add("report")
        script.mask(mask).call("edit").add("nomask", "threads 3")
    answers = script.run(driver, LD_LIBRARY_PATH=libraries)
    half = len(answers) // 2
    assert answers[:half] == answers[half:]
    assert [a.split()[2] for a in answers[:half] if a.startswith("ok sparse ") and "|" not in a] == [
        "direct", "captured", "captured", "captured",
    ]  # fmt: skip
    assert answers[half - 1] == "ok 3"
    results = script.outputs(specs)
    for i in range(2, 5):
        same(results[1], results[i])
    for one, other in zip(results[:6], results[6:], strict=True):
        same(one, other)


def test_a_thousand_edits_take_no_memory(
    gpu: str, driver: Path, libraries: str, tiny_path: Path, script: Script
) -> None:
    base = tiny.inputs()
    script.add(f"open {tiny_path} {gpu}").set(**base).call("record")
    script.set(**tiny.edited(base, slice(3, 6), slice(4, 9))).add("repeat 1000")
    growth = script.run(driver, LD_LIBRARY_PATH=libraries)[-1]
    assert int(growth.split()[1]) < 1 << 20


def test_mistakes_get_the_sentences_of_a_python_session(
    gpu: str, driver: Path, libraries: str, tiny_path: Path, script: Script
) -> None:
    base, wanted = tiny.inputs(), []

    def both(call: Callable[[], object], *lines: str) -> None:
        with pytest.raises(sige.SigeError) as caught:
            call()
        wanted.append(f"{type(caught.value).__name__} {caught.value}")
        script.add(*lines)

    both(lambda: sige.open(tiny_path, device="cuda:99"), f"open {tiny_path} cuda:99")
    image = base["image"].copy()
    image[1, 2, 3, 4] = np.nan
    with sige.open(tiny_path, device=gpu) as session:
        script.add(f"open {tiny_path} {gpu}").set(**base)
        both(lambda: session.edit(**base), "edit /nowhere")
        session.record(**base)
        script.call("record").set(image=image)
        both(lambda: session.edit(**base | {"image": image}), "edit /nowhere")
        script.set(image=base["image"], gain=base["gain"] + 1)
        both(lambda: session.edit(**base | {"gain": base["gain"] + 1}), "edit /nowhere")
        script.set(**base).call("edit")
        result = session.edit(**base)
        outputs = session.bundle.manifest.outputs
    answers = script.run(driver, LD_LIBRARY_PATH=libraries)
    assert [a for a in answers if not a.startswith("ok")] == wanted
    script.lines = [line for line in script.lines if "/nowhere" not in line]
    close(result, script.outputs(outputs)[-1])
