"""Cache files: whole or absent, and refused when damaged or foreign."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import sige_deploy as sige
from sige_deploy import caches
from sige_deploy.errors import CacheError, StateError

BASE = tiny.inputs()
EDIT = tiny.edited(BASE, slice(3, 6), slice(4, 9))


@pytest.fixture
def saved(session: sige.Session, tmp_path: Path) -> Path:
    session.record(**BASE)
    session.save(tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def refused(session: sige.Session, file: Path) -> str:
    with pytest.raises(CacheError) as caught:
        session.load(file)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_save_and_load(session: sige.Session, saved: Path, tiny_path: Path) -> None:
    expected = session.edit(**EDIT)["y"]
    with sige.open(tiny_path, threads=1) as other:
        other.load(saved)
        np.testing.assert_array_equal(other.edit(**EDIT)["y"], expected)
        assert other.report.path == "sparse"
        other.edit(**BASE)
        assert other.report.path == "reuse"
        other.commit()
        other.edit(**EDIT)
        other.commit()
        other.edit(**EDIT)
        assert other.report.path == "reuse"


def test_load_takes_the_place_of_a_record(session: sige.Session, saved: Path) -> None:
    session.record(**tiny.inputs(5))
    session.edit(**tiny.edited(tiny.inputs(5), slice(0, 3), slice(0, 3)))
    session.load(saved)
    with pytest.raises(StateError, match="no edit to commit"):
        session.commit()
    session.edit(**BASE)
    assert session.report.path == "reuse"


def test_the_file_is_safetensors(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, "np") as file:
        assert file.metadata()["format"] == "sige_deploy.caches"
        np.testing.assert_array_equal(file.get_tensor("input.image"), BASE["image"])
        assert set(file.keys()) == {
            "input.image", "input.gain", "input.offset", "output.y", "output.total",
            "cache.base.h", "cache.static.gain",
        }  # fmt: skip


def test_arrays_of_all_kinds_keep_their_bits(tiny_path: Path, tmp_path: Path) -> None:
    """Scalars, empty arrays and narrow types, through a manifest that no graph backs."""
    manifest = sige.open_bundle(tiny_path).manifest
    extra = [
        {"name": f"static.{dtype}{shape}", "kind": "static", "shape": shape, "dtype": dtype}
        for dtype in ("bool", "float16", "float64", "int8", "int64", "uint16")
        for shape in ([], [0, 3], [5, 3])
    ]
    manifest = type(manifest).model_validate(manifest.model_dump() | {"caches": extra})
    rng = np.random.default_rng(0)
    arrays = {
        name: np.asarray(rng.integers(0, 2, shape), dtype)
        for name, (shape, dtype) in caches.expected(manifest).items()
    }
    caches.save(tmp_path / "kinds", manifest, arrays)
    loaded = caches.load(tmp_path / "kinds", manifest)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()


def test_any_damaged_byte_is_found(session: sige.Session, saved: Path, tmp_path: Path) -> None:
    """One bit of every byte of length and header, and of some of the data."""
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    positions = [*range(header), header, len(data) // 2, len(data) - 1]
    damaged = tmp_path / "damaged"
    for position in positions:
        altered = bytearray(data)
        altered[position] ^= 1
        damaged.write_bytes(altered)
        with pytest.raises(CacheError):
            session.load(damaged)
    session.edit(**BASE)
    assert session.report.path == "reuse"


@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "header only"])
def test_a_file_of_another_length_is_refused(session: sige.Session, saved: Path, change: str) -> None:
    data = saved.read_bytes()
    saved.write_bytes(
        {"shorter": data[:-1], "longer": data + b"\0", "empty": b"", "header only": data[:8]}[change]
    )
    refused(session, saved)


def test_a_foreign_file_is_refused(session: sige.Session, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign")
    assert "not a cache file" in refused(session, tmp_path / "foreign")
    (tmp_path / "text").write_text("hello " * 100)
    assert "not a cache file" in refused(session, tmp_path / "text")
    assert "no cache file" in refused(session, tmp_path / "nothing")
    assert "no cache file" in refused(session, tmp_path)


def test_caches_of_another_bundle_are_refused(saved: Path, tmp_path: Path) -> None:
    tiny.WEIGHT[0, 0, 0, 0] += 1
    try:
        tiny.write_tiny(tmp_path / "other")
    finally:
        tiny.WEIGHT[0, 0, 0, 0] -= 1
    with sige.open(tmp_path / "other", threads=1) as other:
        assert "another bundle" in refused(other, saved)


def test_a_newer_version_is_refused(session: sige.Session, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b'"version":"1"', b'"version":"2"', 1))
    assert "version 2" in refused(session, saved) and "upgrade" in refused(session, saved)


def test_the_planner_may_be_calibrated_between_save_and_load(tiny_copy: Path, tmp_path: Path) -> None:
    with sige.open(tiny_copy, threads=1) as session:
        session.record(**BASE)
        session.save(tmp_path / "caches")
        session.bundle.update_planner(0.3)
    with sige.open(tiny_copy, threads=1) as session:
        session.load(tmp_path / "caches")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny
import sige_deploy as sige
from sige_deploy import caches

real, count = caches.write, 0

def write(file, chunk):
    global count
    count += 1
    real(file, chunk[: len(chunk) // 2])
    if count == 3:
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(file, chunk[len(chunk) // 2 :])

caches.write = write
session = sige.open({bundle!r}, threads=1)
session.record(**tiny.inputs(9))
session.save({file!r})
"""


def test_killed_while_saving_leaves_the_old_file(session: sige.Session, saved: Path, tiny_path: Path) -> None:
    before = saved.read_bytes()
    code = KILLED.format(tests=str(Path(__file__).parent), bundle=str(tiny_path), file=str(saved))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert saved.read_bytes() == before
    session.load(saved)
    session.edit(**BASE)
    assert session.report.path == "reuse"


def test_a_failing_save_leaves_the_old_file_and_nothing_beside(
    session: sige.Session, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(caches, "write", full)
        with pytest.raises(CacheError, match=r"No space left on device.*choose a file"):
            session.save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    session.edit(**BASE)
    assert session.report.path == "reuse"


def test_a_place_that_cannot_be_written_is_one_sentence(session: sige.Session, tmp_path: Path) -> None:
    session.record(**BASE)
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "caches", tmp_path / "no folder" / "caches", tmp_path):
        with pytest.raises(CacheError, match=r"cannot write caches to [^\n]*\.$"):
            session.save(place)
