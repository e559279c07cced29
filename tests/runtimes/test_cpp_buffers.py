"""What the C++ library does on a GPU, done on host memory and on a stand-in for CUDA: equal bits with its CPU sessions
from the same recorded state, and the reports and sentences of those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from cpp_library import ROOT, Arrays, Script, build, installed

import sige_deploy as sige

pytestmark = pytest.mark.xdist_group("cpp")  # the builds are made once
BOX, WIDE = (slice(3, 6), slice(4, 9)), (slice(0, 16), slice(0, 23))
CUDA = any(Path(folder, "cuda_runtime_api.h").is_file() for folder in ("/usr/local/cuda/include", "/usr/include"))
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.skipif(not CUDA, reason="needs CUDA's headers"))]


def built(needs: list[str], prefix: Path, folder: Path) -> Path:
    """The driver with a GPU's devices, on the host."""
    build(ROOT / "tests" / "runtimes" / "cpp_buffers", folder, f"-DCMAKE_PREFIX_PATH={prefix}", *needs)
    return folder / "driver"


@pytest.fixture(scope="module")
def buffers(needs: list[str], prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(needs, prefix, tmp_path_factory.mktemp("buffers"))


def random_edits(given: Arrays, masked: str, rng: np.random.Generator) -> list[tuple[Arrays, np.ndarray | None]]:
    """Boxes of all sizes, masks of scattered pixels, nothing at all, everything."""
    edits: list[tuple[Arrays, np.ndarray | None]] = []
    for size in (3, 1, 5, 3, 0, 99, 4, 3):
        edited = {name: array.copy() for name, array in given.items()}
        for array in edited.values():
            if array.ndim == 4:
                y, x = (rng.integers(max(n - size, 1)) for n in array.shape[-2:])
                array[..., y : y + size, x : x + size] += 1
        mask = rng.random(given[masked].shape[-2:]) < 0.03 if size == 4 else None
        edits.append((edited, mask))
    return edits


def both(
    script: Script, driver: Path, buffers: Path, device: str, path: Path, recorded: Arrays,
    edits: list[tuple[Arrays, np.ndarray | None]],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """The answers of the CPU's driver and of a device's to a record and edits, each from the state that the
    first one had then, and committed; the second's calls come after the first's in `script`."""
    scripts = [Script(script.folder / name) for name in ("one", "other")]
    for number, (one, target) in enumerate(zip(scripts, ("cpu", device))):
        one.folder.mkdir()
        one.add(f"open {path} {target}").set(**recorded).call("record")
        for i, (inputs, mask) in enumerate(edits):
            one.add(f"load {script.folder}/state{i}" if number else f"save {script.folder}/state{i}")
            one.add("nomask") if mask is None else one.mask(mask)
            one.set(**inputs).call("edit").add("commit", f"save {one.folder}/committed{i}")
    answers = [one.run(where) for one, where in zip(scripts, (driver, buffers))]
    outputs = sige.open_bundle(path).manifest.outputs
    made = [one.outputs(outputs) for one in scripts]
    close(*(results[0] for results in made))  # here weights are laid out anew, not folded
    paths = [answer.split()[1] for answer in answers[0] if " | " in answer][1:]
    for i, (how, ours, theirs) in enumerate(zip(paths, made[0][1:], made[1][1:], strict=True)):
        (close if how == "dense" else same)(ours, theirs)
        states = [arrays_of(one.folder / f"committed{i}") for one in scripts]
        (close if how == "dense" else same)(*states)
    return answers[0], [answer.replace(f"onnxruntime {device}", "onnxruntime cpu") for answer in answers[1]]


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
def test_all_paths_of_the_tiny_network(
    driver: Path, buffers: Path, tiny_path: Path, script: Script, device: str
) -> None:
    base = tiny.inputs()
    small, free = tiny.edited(base, *BOX), {**base, "offset": base["offset"] + 1}
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[4, 5:9] = True
    edits = [
        (small, None), (tiny.edited(base, *WIDE), None), (tiny.edited(base, *WIDE), None), (free, None),
        ({**small, "offset": free["offset"]}, None), (tiny.edited(base, *WIDE), mask),
        (tiny.edited(base, *WIDE), np.zeros_like(mask)),
    ]  # fmt: skip
    one, other = both(script, driver, buffers, device, tiny_path, base, edits)
    assert one == other
    assert {answer.split()[1] for answer in one} >= {"record", "sparse", "dense", "reuse"}
