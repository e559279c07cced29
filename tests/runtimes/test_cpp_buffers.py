"""What the C++ library does on a GPU, done on host memory and on a stand-in for CUDA: equal bits with its
sessions on the CPU from the same recorded state, and the reports and sentences of those; all of it built for
AddressSanitizer and UBSan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from cpp_library import ROOT, Arrays, Script, build, run
from test_engines import PLUGIN, VERSION, write_engines

import sige_deploy as sige
from sige_deploy.engines import PluginSpec, check_engine, find_engine, read_engine

pytestmark = pytest.mark.xdist_group("cpp buffers")  # the build is made once
BOX, WIDE = (slice(3, 6), slice(4, 9)), (slice(0, 16), slice(0, 23))
CUDA = any(
    Path(folder, "cuda_runtime_api.h").is_file() for folder in ("/usr/local/cuda/include", "/usr/include")
)
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs CUDA's headers")
DEVICES = ["buffers", pytest.param("cuda:0", marks=needs_cuda)]


@pytest.fixture(scope="module")
def driver(needs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with a GPU's devices, on the host; the example of edits lies beside it."""
    folder = tmp_path_factory.mktemp("buffers")
    settings = "-DCMAKE_BUILD_TYPE=Sanitize", "-DSIGE_INSTRUCTION_SETS=none"
    build(ROOT / "tests" / "runtimes" / "cpp_buffers", folder, *needs, *settings)
    return folder / "driver"


@pytest.fixture(
    scope="module", params=["two_inputs", "bilinear_pools", "grid_attention", "island_flip", "pixel_shuffle"]
)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A bundle, and what it was exported from."""
    pytest.importorskip("torch")
    from zoo.registry import ZOO

    entry, path = ZOO[request.param], tmp_path_factory.mktemp("network") / "bundle"
    config = sige.SparseConfig(dense_above=0.8, **entry.config)
    sige.export(entry.module(), entry.example_inputs(), path, spatial=list(entry.spatial), config=config)
    return path, entry


def random_edits(
    given: Arrays, masked: str, rng: np.random.Generator
) -> list[tuple[Arrays, np.ndarray | None]]:
    """One after the other: boxes of all sizes, nothing at all, everything, a mask of scattered pixels."""
    edits: list[tuple[Arrays, np.ndarray | None]] = []
    for size in (3, 1, 5, 3, 0, 99, 4, 3):
        edited = {name: array.copy() for name, array in given.items()}
        for array in edited.values() if size else ():
            if array.ndim == 4:
                y, x = (rng.integers(max(n - size, 1)) for n in array.shape[-2:])
                array[..., y : y + size, x : x + size] += 1
        mask = rng.random(given[masked].shape[-2:]) < 0.03 if size == 4 else None
        edits.append((edited, mask))
        given = edited
    return edits


def both(
    script: Script, driver: Path, device: str, path: Path, recorded: Arrays,
    edits: list[tuple[Arrays, np.ndarray | None]],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """The answers of sessions on the CPU and on a device to a record and edits, each from the state that the
    first one had then, and committed; the second's calls come after the first's in `script`."""
    scripts = [Script(script.folder / name) for name in ("one", "other")]
    for number, (one, target) in enumerate(zip(scripts, ("cpu", device))):
        one.folder.mkdir()
        one.add(f"open {path} {target}").set(**recorded).call("record")
        for i, (inputs, mask) in enumerate(edits):
            one.add(f"load {script.folder}/state{i}" if number else f"save {script.folder}/state{i}")
            one.add("nomask") if mask is None else one.mask(mask)
            one.set(**inputs).call("edit").add("commit", f"save {one.folder}/committed{i}")
    answers = [one.run(driver) for one in scripts]
    outputs = sige.open_bundle(path).manifest.outputs
    made = [one.outputs(outputs) for one in scripts]
    close(*(results[0] for results in made))  # here weights are laid out anew, not folded
    paths = [answer.split()[1] for answer in answers[0] if " | " in answer][1:]
    for i, (how, ours, theirs) in enumerate(zip(paths, made[0][1:], made[1][1:], strict=True)):
        (close if how == "dense" else same)(ours, theirs)
        states = [arrays_of(one.folder / f"committed{i}") for one in scripts]
        (close if how == "dense" else same)(*states)
    return answers[0], [answer.replace(device, "cpu") for answer in answers[1]]


def arrays_of(file: Path) -> Arrays:
    from safetensors.numpy import load_file

    return load_file(file)


def same(wanted: Arrays, got: Arrays) -> None:
    assert wanted.keys() == got.keys()
    for name, array in wanted.items():
        assert array.tobytes() == got[name].tobytes(), name


def close(wanted: Arrays, got: Arrays) -> None:
    for name, array in wanted.items():
        bound = 1e-4 * max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=bound)


@pytest.mark.parametrize("device", DEVICES)
def test_all_paths_of_the_tiny_network(driver: Path, tiny_path: Path, script: Script, device: str) -> None:
    base = tiny.inputs()
    small, free = tiny.edited(base, *BOX), {**base, "offset": base["offset"] + 1}
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[4, 5:9] = True
    edits = [
        (small, None), (tiny.edited(base, *WIDE), None), (tiny.edited(base, *WIDE), None), (free, None),
        ({**small, "offset": free["offset"]}, None), (tiny.edited(base, *WIDE), mask),
        (tiny.edited(base, *WIDE), np.zeros_like(mask)),
    ]  # fmt: skip
    one, other = both(script, driver, device, tiny_path, base, edits)
    assert one == other
    assert {answer.split()[1] for answer in one} >= {"record", "sparse", "dense", "reuse"}


@pytest.mark.parametrize("device", DEVICES)
def test_random_edits_of_networks(
    driver: Path, script: Script, device: str, network: tuple[Path, Any]
) -> None:
    """Masks resampled between inputs of different sizes, weights, attention, dense islands, phases."""
    (path, entry), rng = network, np.random.default_rng(1)
    given = {name: tensor.numpy() for name, tensor in entry.example_inputs().items()}
    edits = random_edits(given, entry.spatial[0], rng)
    one, other = both(script, driver, device, path, given, edits)
    assert one == other
    assert {answer.split()[1] for answer in one} >= {"record", "sparse", "dense", "reuse"}


@needs_cuda
def test_captured_graphs_of_few_buckets_are_kept(driver: Path, tiny_path: Path, script: Script) -> None:
    """The second edit of a size is captured, later ones are launched, and the least recently used go."""
    base = tiny.inputs()
    small, wide = tiny.edited(base, *BOX), tiny.edited(base, slice(0, 9), slice(0, 9))
    script.add(f"open {tiny_path} cuda:0").set(**base).call("record")
    for inputs in (small, small, small, wide, wide, small):
        script.set(**inputs).call("edit").add("report")
    plenty = [answer for answer in script.run(driver) if "|" not in answer]
    # The look at the inputs is captured at the second edit, the edit of a size at its second.
    assert [answer.split()[2:] for answer in plenty] == [
        ["direct", "0"], ["captured", "2"], ["captured", "2"],
        ["direct", "2"], ["captured", "3"], ["captured", "3"],
    ]  # fmt: skip
    results = script.outputs(sige.open_bundle(tiny_path).manifest.outputs)
    for i in (2, 3, 6):
        same(results[1], results[i])
    same(results[4], results[5])
    scarce = [answer for answer in script.run(driver, BUDGET="1") if "|" not in answer]
    assert {answer.split()[3] for answer in scarce} <= {"0", "1"}
    assert scarce[-1].split()[2] == "captured"


@needs_cuda
def test_inputs_and_outputs_on_the_device(driver: Path, tiny_path: Path, script: Script) -> None:
    base = tiny.inputs()
    small = tiny.edited(base, *BOX)
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[3:5, 4:9] = True
    for place, outputs in (("host", ""), ("cuda", ""), ("cuda", "cuda")):
        script.add(f"open {tiny_path} cuda:0 onnxruntime {outputs}", f"place {place}", "nomask")
        script.set(**base).call("record").set(**small).call("edit").mask(mask).call("edit").add("threads 3")
    answers = script.run(driver)
    third = len(answers) // 3
    assert answers[:third] == answers[third : 2 * third] == answers[2 * third :]
    assert answers[third - 1] == "ok 3"
    results = script.outputs(sige.open_bundle(tiny_path).manifest.outputs)
    for i in range(3):
        same(results[i], results[i + 3])
        same(results[i], results[i + 6])


@pytest.mark.parametrize("device", DEVICES)
def test_mistakes_leave_the_session_as_it_was(
    driver: Path, tiny_path: Path, script: Script, device: str
) -> None:
    base = tiny.inputs()
    edited = tiny.edited(base, *BOX)
    broken = {**base, "image": np.full_like(base["image"], np.nan)}

    def calls(name: str, target: str) -> Script:
        one = Script(script.folder / name)
        one.folder.mkdir()
        one.add(f"open {tiny_path} {target}").set(**broken).add("record /nowhere").set(**base)
        one.add("edit /nowhere", "commit", "report").call("record").add("commit").set(**edited).call("edit")
        one.set(**broken).add("edit /nowhere", "record /nowhere").set(
            gain=base["gain"] + 1, image=edited["image"]
        )
        one.add("edit /nowhere").set(image=base["image"][:1]).add("edit /nowhere").set(**edited).add("commit")
        return one.call("edit")

    def made(one: Script) -> list[Arrays]:
        one.lines = [line for line in one.lines if "/nowhere" not in line]
        return one.outputs(sige.open_bundle(tiny_path).manifest.outputs)

    ours, theirs = calls("one", "cpu"), calls("other", device)
    wanted, got = ours.run(driver), theirs.run(driver)
    assert [answer.replace(device, "cpu") for answer in got] == wanted
    assert [answer.split()[0] for answer in got].count("InputError") == 5
    for one, other in zip(made(ours), made(theirs), strict=True):
        close(one, other)


@needs_cuda
def test_onnxruntime_without_cuda_is_refused_as_in_python(
    driver: Path, tiny_path: Path, script: Script
) -> None:
    with pytest.raises(sige.RuntimeFailure) as caught:
        sige.open(tiny_path, device="cuda:1")
    answers = script.add(f"open {tiny_path} cuda:1").all_answers(driver)
    assert answers == [f"RuntimeFailure {caught.value}"]


def other(**fields: Any) -> Callable[[Path], None]:
    """Changes fields of an engine manifest; None takes one away."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "engine.json").read_text()) | fields
        kept = {name: value for name, value in manifest.items() if value is not None}
        (folder / "engine.json").write_text(json.dumps(kept))

    return change


def altered(folder: Path) -> None:
    engine = folder / "edit.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")


def truncated(folder: Path) -> None:
    engine = folder / "edit.engine"
    engine.write_bytes(engine.read_bytes()[:-1])


def linked(folder: Path) -> None:
    (folder / "edit.engine").rename(folder / "elsewhere")
    (folder / "edit.engine").symlink_to(folder / "elsewhere")


WRONG_ENGINES = {
    "as built": lambda folder: None,
    "missing": lambda folder: (folder / "engine.json").unlink(),
    "no engine": lambda folder: (folder / "dense.engine").unlink(),
    "altered": altered,
    "truncated": truncated,
    "linked": linked,
    "schema": other(schema_version=2),
    "no schema": other(schema_version=None),
    "damaged": other(bundle="?"),
    "another bundle": other(bundle="c" * 64),
    "another version": other(version="10.15.1.29"),
    "version": other(version="10"),
    "another GPU": other(capabilities=["8.9"]),
    "no GPU": other(capabilities=[]),
    "field": other(surprise=1),
    "no field": other(contents=None),
    "flavour": other(flavour="coreml"),
    "files": other(files={}),
    "profiles": other(profiles=[{"a": [1, 2]}]),
    "API": other(plugin=PLUGIN.model_dump() | {"api_version": 1}),
    "plugins": other(plugin=PLUGIN.model_dump() | {"libsige_tensorrt": "d" * 64}),
    "kernels": other(plugin=PLUGIN.model_dump() | {"libsige_kernels": "d" * 64}),
}


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_engines_are_refused_with_the_sentences_of_python(
    driver: Path, tiny_copy: Path, script: Script, flavour: Any
) -> None:
    bundle, wanted = sige.open_bundle(tiny_copy), []
    plugin = PluginSpec.model_validate(PLUGIN)
    for how, change in WRONG_ENGINES.items():
        folder = write_engines(bundle, flavour=flavour, version=VERSION)
        change(folder)
        try:
            found = find_engine(bundle, flavour, VERSION, "8.6")
            what = {"flavour": flavour, "version": VERSION, "capability": "8.6"}
            check_engine(read_engine(found), **what, plugin=plugin, bundle=bundle)
            wanted.append("ok done")
        except sige.SigeError as error:
            wanted.append(f"{type(error).__name__} {error}")
        script.lines = [f"open {tiny_copy} buffers tensorrt"]
        target = (
            flavour,
            VERSION,
            "8.6",
            plugin.api_version,
            plugin.libsige_tensorrt,
            plugin.libsige_kernels,
        )
        said = script.all_answers(driver, TARGET=" ".join(map(str, target)))
        assert said == [wanted[-1]], how
        shutil.rmtree(tiny_copy / "tensorrt")
    assert wanted.count("ok done") == 1


def test_all_calls_in_a_row(driver: Path, tiny_path: Path, script: Script, tmp_path: Path) -> None:
    """One process goes from device to device."""
    base = tiny.inputs()
    for device in ["cpu", "buffers", *(["cuda:0 onnxruntime cuda"] if CUDA else [])]:
        script.add("open /nowhere", f"open {tiny_path} {device}")
        script.add(f"place {'cuda' if 'cuda' in device else 'host'}").set(**base).call("record")
        for inputs in (tiny.edited(base, *BOX), tiny.edited(base, *WIDE), base):
            script.set(**inputs).call("edit").call("edit").add("commit")
        script.add(f"save {tmp_path / 'state'}", f"load {tmp_path / 'state'}", "threads 3")
        script.add(f"load {tiny_path / 'weights.safetensors'}")
        script.set(image=base["image"][:1]).add("edit /nowhere").set(**base).add("repeat 20")
    answers = script.run(driver)
    turn = ["BundleError", *["ok"] * 14, "CacheError", "InputError", "ok"]
    assert [answer.split()[0] for answer in answers] == turn * (2 + CUDA)


def test_the_example(driver: Path, tiny_path: Path, tmp_path: Path) -> None:
    said_by_it = run(driver.with_name("edit"), tiny_path, tmp_path / "outputs").splitlines()
    assert [line.split(":")[0] for line in said_by_it] == ["record", "sparse"]
