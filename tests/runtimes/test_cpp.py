"""The C++ library does what a Python session does: pixels, reports, sentences; and it leaks nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from cpp_library import ROOT, Arrays, Script, build, driver_of, run
from PIL import Image

import sige_deploy as sige
from sige_deploy import demo
from sige_deploy.config import SparseConfig

pytestmark = pytest.mark.xdist_group("cpp")  # the builds are made once
NAMES = ("y", "total")
BOX, WIDE = (slice(3, 6), slice(4, 9)), (slice(0, 16), slice(0, 23))


def said(report: sige.Report) -> str:
    rows = "".join(f" {level}={n}" for level, n in sorted(report.rows.items()))
    return f"ok {report.path} {report.active_fraction:.17g} {report.cache_bytes}{rows} | {report.runtime}"


def test_all_paths_are_those_of_a_python_session(
    driver: Path, tiny_path: Path, script: Script, python: Callable[[Path], sige.Session]
) -> None:
    base = tiny.inputs()
    small, large = tiny.edited(base, *BOX), tiny.edited(base, *WIDE)
    free = {**base, "offset": base["offset"] + 1}
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[4, 5:9] = True
    script.add(f"open {tiny_path}").set(**base).call("record")
    reports, results = [], []
    with python(tiny_path) as session:

        def both(inputs: Arrays, mask: np.ndarray | None = None, commit: bool = False) -> None:
            results.append(session.edit(**inputs, mask=mask))
            reports.append(said(session.report))
            script.add("nomask") if mask is None else script.mask(mask)
            script.set(**inputs).call("edit")
            if commit:
                session.commit()
                script.add("commit")
                reports.append("ok done")

        results.append(session.record(**base))
        reports.append(said(session.report))
        both(small)
        both(large)  # dense
        both(base)  # reuse
        both(free)  # dense, by a free input alone
        both({**small, "offset": free["offset"]}, commit=True)
        both(tiny.edited(small, slice(9, 12), slice(12, 20)))
        both(large, mask, commit=True)
        both(large, np.zeros_like(mask))
        both(tiny.edited(base, slice(0, 16), slice(0, 24)), commit=True)
        both(tiny.edited(small, *BOX))
        outputs = session.bundle.manifest.outputs
    assert script.run(driver) == reports
    assert {r.split()[1] for r in reports} >= {"record", "sparse", "dense", "reuse"}
    for ours, theirs in zip(script.outputs(outputs), results, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["as_given", "float16"])
@pytest.mark.parametrize("network", ["two_inputs", "pixel_shuffle", "bilinear_pools"])
def test_networks_of_several_levels(
    driver: Path, script: Script, python: Callable[[Path], sige.Session], network: str, precision: str
) -> None:
    """Masks resampled between inputs of different sizes, phases, weights, committed rows."""
    pytest.importorskip("torch")
    from zoo.registry import ZOO

    entry, path, rng = ZOO[network], script.folder / "bundle", np.random.default_rng(0)
    config = SparseConfig(precision=precision)
    sige.export(entry.module(), entry.example_inputs(), path, spatial=list(entry.spatial), config=config)
    with python(path) as session:
        specs = session.bundle.manifest.inputs
        given = {i.name: entry.example_inputs()[i.name].numpy().astype(i.dtype) for i in specs}
        results, reports = [session.record(**given)], [said(session.report)]
        script.add(f"open {path}").set(**given).call("record")
        for masked in (False, True, False, True):
            edited = {name: array.copy() for name, array in given.items()}
            for array in edited.values():
                y, x = rng.integers(array.shape[-2]), rng.integers(array.shape[-1])
                array[..., y : y + 3, x : x + 4] += 1
            mask = rng.random(given["image"].shape[-2:]) < 0.03 if masked else None
            results.append(session.edit(**edited, mask=mask))
            reports += [said(session.report), "ok done"]
            script.add("nomask") if mask is None else script.mask(mask)
            script.set(**edited).call("edit").add("commit")
            session.commit()
            given = edited
        outputs = session.bundle.manifest.outputs
    assert script.run(driver) == reports
    assert any("sparse" in report for report in reports)
    for ours, theirs in zip(script.outputs(outputs), results, strict=True):
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-6)


def test_mistakes_get_the_sentences_of_a_python_session(
    driver: Path, tiny_path: Path, script: Script, python: Callable[[Path], sige.Session]
) -> None:
    base = tiny.inputs()
    expected = []
    with python(tiny_path) as session:

        def both(call: Callable[[], object], *lines: str) -> None:
            with pytest.raises(sige.SigeError) as caught:
                call()
            expected.append(f"{type(caught.value).__name__} {caught.value}")
            script.add(*lines)

        def wrong(mask: np.ndarray | None = None, **changed: np.ndarray) -> None:
            script.set(**changed)
            both(lambda: session.edit(**{**base, **changed}, mask=mask), "edit /nowhere")
            script.set(**{name: base[name] for name in changed if name in base})

        script.add(f"open {tiny_path}").set(**base)
        both(lambda: session.report, "report")
        both(lambda: session.edit(**base), "edit /nowhere")
        both(session.commit, "commit")
        session.record(**base)
        script.call("record")
        both(session.commit, "commit")
        wrong(image=base["image"][:1])
        wrong(image=base["image"].astype(np.float64))
        wrong(gain=base["gain"] + 1)
        image = base["image"].copy()
        image[1, 2, 3, 4] = np.nan
        wrong(image=image)
        wrong(offset=base["offset"] * np.float32(np.inf))
        wrong(extra=base["gain"])
        script.add("unset extra", "unset gain")
        fewer = {name: base[name] for name in ("image", "offset")}
        both(lambda: session.edit(**fewer), "edit /nowhere")
        script.set(**base).mask(np.zeros((3, 4), bool))
        wrong(mask=np.zeros((3, 4), bool))
    answers = script.run(driver)
    assert [a for a in answers if not a.startswith("ok")] == expected
    assert len(expected) == 12


def damaged(path: Path, how: str) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    edit = path / "edit.onnx"
    if how == "newer":
        manifest["schema_version"] += 1
    elif how == "older":
        manifest["op_set_version"] = 0
    elif how == "outside":
        manifest["files"]["../weights"] = manifest["files"]["edit.onnx"]
    elif how == "unlisted":
        del manifest["files"]["edit.onnx"]
    elif how == "unknown field":
        manifest["surprise"] = 1
    elif how == "wrong level":
        manifest["outputs"][0]["level"] = "nowhere"
    elif how == "altered":
        edit.write_bytes(edit.read_bytes()[:-1] + b"?")
    elif how == "truncated":
        edit.write_bytes(edit.read_bytes()[:-1])
    elif how == "link":
        edit.rename(path.parent / "elsewhere")
        edit.symlink_to(path.parent / "elsewhere")
    elif how == "missing":
        edit.unlink()
    (path / "manifest.json").write_text(json.dumps(manifest))


WRONG = ["newer", "older", "outside", "unlisted", "unknown field", "wrong level"]


@pytest.mark.parametrize("how", [*WRONG, "altered", "truncated", "link", "missing"])
def test_damaged_bundles_get_the_sentences_of_a_python_session(
    driver: Path, tiny_copy: Path, script: Script, how: str
) -> None:
    damaged(tiny_copy, how)
    with pytest.raises(sige.SigeError) as caught:
        sige.open(tiny_copy)
    assert script.add(f"open {tiny_copy}").run(driver) == [f"BundleError {caught.value}"]


def test_what_is_no_bundle_is_refused(driver: Path, tiny_copy: Path, script: Script, tmp_path: Path) -> None:
    (tiny_copy / "manifest.json").write_bytes((tiny_copy / "manifest.json").read_bytes()[:99])
    script.add(f"open {tmp_path}/nowhere", f"open {tiny_copy}")
    nowhere, truncated = script.run(driver)
    with pytest.raises(sige.SigeError) as caught:
        sige.open(tmp_path / "nowhere")
    assert nowhere == f"BundleError {caught.value}"
    assert truncated.startswith(f"BundleError '{tiny_copy}/manifest.json' is truncated or not JSON (")


def test_threads_take_turns_and_a_thousand_edits_take_no_memory(
    driver: Path, tiny_path: Path, script: Script
) -> None:
    base = tiny.inputs()
    script.add(f"open {tiny_path}").set(**base).call("record").set(**tiny.edited(base, *BOX))
    _, same, growth = script.add("threads 4", "repeat 1000").run(driver, OMP_NUM_THREADS="1")
    assert same == "ok 4"
    assert int(growth.split()[1]) < 256 << 10


def test_what_is_missing_for_a_gpu_is_said(driver: Path, tiny_path: Path, script: Script) -> None:
    wanted = []
    for device, runtime in (
        ("cuda:x", "onnxruntime"),
        ("tpu", "onnxruntime"),
        ("cpu", "none"),
        ("cpu", "tensorrt"),
    ):
        with pytest.raises(sige.SigeError) as caught:
            sige.open(tiny_path, device=device, runtime=runtime)
        wanted.append(f"{type(caught.value).__name__} {caught.value}")
        script.add(f"open {tiny_path} {device} {runtime}")
    script.add(
        f"open {tiny_path} cuda:0",
        f"open {tiny_path} cuda:0 tensorrt",
        f"open {tiny_path} cpu onnxruntime cuda",
    )
    script.add(f"open {tiny_path}", "place cuda").set(**tiny.inputs()).add("record /nowhere")
    answers = script.all_answers(driver)
    assert answers[: len(wanted)] == wanted
    said = [answer for answer in answers[len(wanted) :] if not answer.startswith("ok")]
    assert [answer.split()[0] for answer in said] == ["RuntimeFailure"] * 2 + ["InputError"] * 2
    assert "needs libsige with CUDA" in said[0] and "needs libsige with TensorRT" in said[1]
    assert "outputs on a GPU need a session on one" in said[2]
    assert "'image' lies on a GPU, and this session runs on the CPU" in said[3]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from sige_deploy.exporters.export import export
    from sige_deploy.street.demo_scene import demo_scene, one_hot

    path = tmp_path_factory.mktemp("street")
    label, edits = demo_scene()
    export(
        demo.load_street(), {"label": one_hot(label)}, path / "street.sige", ["label"],
        SparseConfig(dilate=demo.DILATE), name="street",
    )  # fmt: skip
    Image.fromarray(label).save(path / "label.png")
    Image.fromarray(edits[0][1]).save(path / "edited.png")
    return path


def test_the_street_has_the_pixels_of_a_python_session(
    prefix: Path, street: Path, script: Script, python: Callable[[Path], sige.Session], tmp_path: Path
) -> None:
    from sige_deploy.images import to_picture
    from sige_deploy.street.demo_scene import one_hot

    labels = [one_hot(np.asarray(Image.open(street / f"{name}.png"))) for name in ("label", "edited")]
    with python(street / "street.sige") as session:
        wanted = [session.record(label=labels[0]), session.edit(label=labels[1])]
        report, outputs = said(session.report), session.bundle.manifest.outputs
    script.add(f"open {street / 'street.sige'}").set(label=labels[0]).call("record")
    assert script.set(label=labels[1]).call("edit").run(driver_of(prefix))[1] == report
    for ours, theirs in zip(script.outputs(outputs), wanted, strict=True):
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-6)
    if not Path("/usr/include/png.h").exists():
        pytest.skip("the example needs libpng-dev")
    build(ROOT / "examples" / "cpp" / "street", tmp_path / "example", f"-DCMAKE_PREFIX_PATH={prefix}")
    pngs = [street / "label.png", street / "edited.png", tmp_path / "picture.png"]
    said_by_it = run(tmp_path / "example" / "street", street / "street.sige", *pngs)
    assert said_by_it.splitlines()[1].startswith("sparse: 3.")
    expected = to_picture(next(iter(wanted[1].values())))
    assert expected is not None
    painted = np.asarray(Image.open(tmp_path / "picture.png")).astype(int)
    assert np.abs(painted - expected).max() <= 1


def test_pkg_config_finds_it(prefix: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    flags = run("pkg-config", "--cflags", "--libs", prefix / "lib" / "pkgconfig" / "sige.pc")
    assert "-lsige" in flags and "include" in flags
