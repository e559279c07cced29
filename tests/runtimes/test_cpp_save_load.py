"""The C++ library's cache files are those of Python sessions, byte for byte, and it refuses the same ones."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from cpp_library import Script

import sige_deploy as sige
from sige_deploy import caches

pytestmark = pytest.mark.xdist_group("cpp")
BASE = tiny.inputs()
EDIT = tiny.edited(BASE, slice(3, 6), slice(4, 9))
Opener = Callable[[Path], sige.Session]


@pytest.fixture
def saved(python: Opener, tiny_path: Path, tmp_path: Path) -> Path:
    """A file that a Python session wrote, after a commit."""
    with python(tiny_path) as session:
        session.record(**BASE)
        session.edit(**EDIT)
        session.commit()
        session.save(tmp_path / "python")
    return tmp_path / "python"


def test_it_takes_up_what_python_saved_and_saves_the_same_bytes(
    driver: Path, tiny_path: Path, script: Script, saved: Path, python: Opener, tmp_path: Path
) -> None:
    script.add(f"open {tiny_path}", f"load {saved}", f"save {tmp_path / 'ours'}", "commit", "report")
    script.set(**EDIT).call("edit").set(**BASE).call("edit")
    answers = script.run(driver)
    assert (tmp_path / "ours").read_bytes() == saved.read_bytes()
    assert answers[:2] == ["ok done"] * 2
    assert answers[2] == "StateError there is no edit to commit; call edit first."
    assert answers[3] == "StateError nothing has run yet; call record first."
    assert [a.split()[1] for a in answers[4:]] == ["reuse", "sparse"]
    with python(tiny_path) as session:
        session.load(saved)
        wanted = [session.edit(**EDIT), session.edit(**BASE)]
        for ours, theirs in zip(script.outputs(session.bundle.manifest.outputs), wanted, strict=True):
            np.testing.assert_allclose(ours["y"], theirs["y"], rtol=0, atol=1e-6)


def test_python_takes_up_what_it_saved(
    driver: Path, tiny_path: Path, script: Script, python: Opener, tmp_path: Path
) -> None:
    """Also over an older file, and through a link, which stays one."""
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    script.add(f"open {tiny_path}").set(**BASE).call("record").set(**EDIT).call("edit").add("commit")
    script.add(f"save {tmp_path / 'link'}").call("edit")
    assert [a.split()[0] for a in script.run(driver)] == ["ok"] * 5
    assert (tmp_path / "link").is_symlink()
    assert not list(tmp_path.glob(".*"))
    with python(tiny_path) as session:
        session.load(tmp_path / "old")
        session.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "old").read_bytes()
        outputs = session.edit(**EDIT)
        assert session.report.path == "reuse"
        ours = script.outputs(session.bundle.manifest.outputs)[-1]
    for name, array in outputs.items():
        np.testing.assert_array_equal(ours[name], array)


def test_arrays_of_all_kinds_keep_their_bits(driver: Path, script: Script, tmp_path: Path) -> None:
    """Scalars, empty arrays, narrow types, and names that JSON escapes."""
    dtypes = ("bool", "float16", "float64", "int8", "int64", "uint16")
    names = {"bool": '"\\/', "float16": "übermaß", "float64": "\u7530\U0001f600", "int8": "\t\x7f\x01"}
    extra = [
        {"name": f"{names.get(dtype, dtype)}{shape}", "kind": "static", "shape": shape, "dtype": dtype}
        for dtype in dtypes
        for shape in ([], [0, 3], [5, 3])
    ]
    bundle = tiny.write_tiny(tmp_path / "bundle", schema={"caches": extra})
    rng = np.random.default_rng(0)
    arrays = {
        name: np.asarray(rng.integers(0, 2, shape), dtype)
        for name, (shape, dtype) in caches.expected(bundle.manifest).items()
    }
    caches.save(tmp_path / "theirs", bundle.manifest, arrays)
    script.add(f"open {tmp_path / 'bundle'}", f"load {tmp_path / 'theirs'}", f"save {tmp_path / 'ours'}")
    assert script.run(driver) == ["ok done"] * 2
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_files_that_are_refused_get_the_sentences_of_a_python_session(
    driver: Path, tiny_path: Path, script: Script, saved: Path, python: Opener, tmp_path: Path
) -> None:
    """Every byte of length and header, some of the data, other lengths, versions, bundles and files."""
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    metadata = data[8 : data.index(b"}") + 1].decode()
    variants = {"empty": b"", "length": data[:8], "half a header": data[: header // 2]}
    variants |= {"header": data[:header], "shorter": data[:-1], "longer": data + b"\0"}
    variants |= {"text": b"hello " * 100, "huge": b"\xff" * 100}
    for position in [*range(header), header, len(data) // 2, len(data) - 1]:
        for bit in (1, 16):
            variants[f"{position}.{bit}"] = (
                data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]
            )
    for old, new in (
        *(('"version":"1"', f'"version":"{version}"') for version in ("2", "0", "x", "12")),
        ('"sha256"', '"SHA256"'), (":{", ":["), (metadata, "{}"),
        ('"format":"sige_deploy.caches"', '"format":"other"'), ('"bundle":"', '"bundle":"0'),
    ):  # fmt: skip
        variants[f"{old} {new}"] = data.replace(old.encode(), new.encode(), 1)
    files = [tmp_path / "nothing", tmp_path, Path("/dev/null"), tmp_path / "python" / "below"]
    for number, contents in enumerate(variants.values()):
        files.append(tmp_path / f"variant{number}")
        files[-1].write_bytes(contents)
    expected = []
    with python(tiny_path) as session:
        session.record(**BASE)
        for file in files:
            with pytest.raises(sige.SigeError) as caught:
                session.load(file)
            expected.append(f"{type(caught.value).__name__} {caught.value}")
    script.add(f"open {tiny_path}").set(**BASE).call("record").add(*(f"load {file}" for file in files))
    answers = script.call("edit").run(driver)
    assert answers[1:-1] == expected
    assert answers[-1].startswith("ok reuse")  # the record is still in force
    kinds = (
        "no cache file",
        "not a cache file or",
        "not a cache file;",
        "version 2",
        "another bundle",
        "damaged or",
    )
    for kind in kinds:
        assert any(kind in sentence for sentence in expected), kind


def test_caches_of_another_bundle_get_the_sentence_of_a_python_session(
    driver: Path, script: Script, saved: Path, tmp_path: Path
) -> None:
    other = tiny.write_tiny(tmp_path / "other")
    (tmp_path / "other" / "edit.onnx").write_bytes(b"other")
    tiny.rewrite_checksums(tmp_path / "other")
    with pytest.raises(sige.CacheError, match="another bundle") as caught:
        caches.load(saved, sige.open_bundle(other.root).manifest)
    answer = script.add(f"open {other.root}", f"load {saved}").run(driver)
    assert answer == [f"CacheError {caught.value}"]


def test_places_that_cannot_be_written_get_the_sentences_of_a_python_session(
    driver: Path, tiny_path: Path, script: Script, python: Opener, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    places = [tmp_path / "file" / "caches", tmp_path / "nowhere" / "caches", tmp_path, tmp_path / ("x" * 250)]
    expected = []
    with python(tiny_path) as session:
        with pytest.raises(sige.StateError) as early:
            session.save(tmp_path / "caches")
        session.record(**BASE)
        for place in places:
            with pytest.raises(sige.CacheError) as caught:
                session.save(place)
            expected.append(f"CacheError {caught.value}")
    script.add(f"open {tiny_path}", f"save {tmp_path / 'caches'}").set(**BASE).call("record")
    answers = script.add(*(f"save {place}" for place in places)).run(driver)
    assert answers[0] == f"StateError {early.value}"
    assert answers[2:] == expected
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("killed", [True, False])
def test_an_interrupted_save_leaves_the_old_file(
    driver: Path, tiny_path: Path, script: Script, saved: Path, killed: bool
) -> None:
    """Files may grow to half of the state: the system kills whoever goes on, or lets the write fail."""
    before = saved.read_bytes()
    script.add(f"open {tiny_path}", f"load {saved}", f"save {saved}")
    done = subprocess.run(
        [driver], input="\n".join(script.lines), capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2),
        restore_signals=killed,
    )  # fmt: skip
    assert saved.read_bytes() == before
    if killed:
        assert done.returncode == -signal.SIGXFSZ
    else:
        assert done.stdout.splitlines()[2] == (
            f"CacheError cannot write caches to '{saved}' ({os.strerror(27)}); "
            "choose a file in a folder that you can write to."
        )
        assert os.listdir(saved.parent) == [saved.name]
