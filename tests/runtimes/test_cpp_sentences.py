"""The C++ library refuses the bundles that Python refuses, with the same sentences."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from cpp_library import Script

import sige_deploy as sige

pytestmark = pytest.mark.xdist_group("cpp")
BASE = tiny.inputs()
EDIT = tiny.edited(BASE, slice(3, 6), slice(4, 9))
Way = tuple[Any, ...]


def said_by_python(call: Callable[[], Any]) -> str:
    """What the driver is to answer to the same call."""
    try:
        call()
    except sige.SigeError as error:
        return f"{type(error).__name__} {error}"
    return "ok done"


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    """The way to each value inside a manifest; lists of sizes and files hold one kind of thing."""
    if way:
        yield way
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())[: 1 if way == ("files",) else None]
    elif isinstance(value, list):
        entries = list(enumerate(value))[: 1 if way[-1:] in (("shape",), ("axes",)) else None]
    for key, entry in entries:
        yield from ways(entry, (*way, key))


def changed(manifest: Any, way: Way, *values: Any) -> Iterator[Any]:
    """The manifest without one of its values, and with others in its place."""
    for number in range(-1, len(values)):
        other = copy.deepcopy(manifest)
        holder = other
        for key in way[:-1]:
            holder = holder[key]
        if number < 0:
            del holder[way[-1]]
        else:
            holder[way[-1]] = values[number]
        yield other


def linked(bundle: Path, folder: Path, *skip: str) -> Path:
    """A copy of a bundle that takes no room, but for some of its files."""
    folder.mkdir()
    for file in bundle.iterdir():
        if file.name not in skip:
            os.link(file, folder / file.name)
    return folder


def test_each_value_of_the_manifest_is_checked_as_in_python(
    driver: Path, tiny_path: Path, script: Script, tmp_path: Path
) -> None:
    manifest = json.loads((tiny_path / "manifest.json").read_text())
    island = {"node": "n", "op": "Conv", "reason": "none"}
    full = manifest | {"islands": [island | {"bytes": 3}], "refusals": [island], "launches": {"Conv": 1}}
    variants = [full, [], "text", None, 3, {}, full | {"surprise": 1}, full | {"files": {"a/../b": {}}}]
    for way in ways(full):
        variants += changed(full, way, None, "x", -1, 1.5, [], {"x": 1}, True)
    for part in ("inputs", "outputs", "levels", "geometries", "caches"):
        variants += changed(full, (part,), full[part][:1] * 2)
    expected = []
    for number, variant in enumerate(variants):
        folder = linked(tiny_path, tmp_path / f"{number}", "manifest.json")
        (folder / "manifest.json").write_text(json.dumps(variant))
        expected.append(said_by_python(lambda folder=folder: sige.open(folder)))
        script.add(f"open {folder}")
    answers = script.all_answers(driver)
    assert answers[0] == "ok done"
    assert dict(enumerate(answers)) == dict(enumerate(expected))
    assert sum(sentence != "ok done" for sentence in expected) > 500


def test_files_that_are_none_get_the_sentences_of_a_python_session(
    driver: Path, tiny_path: Path, script: Script, tmp_path: Path
) -> None:
    folders = []
    for name in ("manifest.json", "edit.onnx"):
        folders.append(linked(tiny_path, tmp_path / f"folder for {name}".replace(" ", "_"), name))
        (folders[-1] / name).mkdir()
        folders.append(linked(tiny_path, tmp_path / f"nothing for {name}".replace(" ", "_"), name))
        folders.append(linked(tiny_path, tmp_path / f"link to {name}".replace(" ", "_"), name))
        (folders[-1] / name).symlink_to(tiny_path / name)
    folders.append(tmp_path / "file")
    (tmp_path / "file").write_text("no bundle")
    expected = [said_by_python(lambda folder=folder: sige.open(folder)) for folder in folders]
    assert script.add(*(f"open {folder}" for folder in folders)).run(driver) == expected
    assert all(sentence.startswith("BundleError") for sentence in expected)


def test_a_bundle_that_changes_while_it_is_open_is_refused_as_in_python(
    driver: Path, tiny_copy: Path, script: Script, python: Callable[[Path], sige.Session]
) -> None:
    script.add(f"open {tiny_copy}").set(**BASE).add(f"touch {tiny_copy / 'weights.safetensors'}")
    answer = script.call("record").run(driver)[-1]
    with python(tiny_copy) as session:
        os.utime(tiny_copy / "weights.safetensors", (1, 1))
        assert answer == said_by_python(lambda: session.record(**BASE))


DAMAGED = [
    "truncated", "no index", "float index", "out of range", "no taps", "weight", "phase", "other level"
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_tables_get_the_sentences_of_a_python_session(
    driver: Path, tiny_copy: Path, script: Script, python: Callable[[Path], sige.Session], how: str
) -> None:
    """Files that fit their checksums: whoever made the bundle made a mistake."""
    tiny.damage_tables(tiny_copy, how)
    script.add(f"open {tiny_copy}").set(**BASE).call("record").set(**EDIT).call("edit")
    answer = script.run(driver)[-1]
    with python(tiny_copy) as session:
        session.record(**BASE)
        expected = said_by_python(lambda: session.edit(**EDIT))
    if how == "truncated":  # the reason is the parser's
        expected, answer = (text.partition("(")[0] for text in (expected, answer))
    assert answer == expected
    assert expected.startswith("BundleError")


@pytest.mark.parametrize("graph", ["record.onnx", "edit.onnx", "dense.onnx"])
def test_graphs_that_the_engine_refuses_get_the_sentences_of_a_python_session(
    driver: Path, tiny_copy: Path, script: Script, python: Callable[[Path], sige.Session], graph: str
) -> None:
    (tiny_copy / graph).write_bytes(b"no graph")
    tiny.rewrite_checksums(tiny_copy)
    wide = tiny.edited(BASE, slice(0, 16), slice(0, 24))
    script.add(f"open {tiny_copy}").set(**BASE).call("record").set(**(EDIT if graph == "edit.onnx" else wide))
    answers = script.call("edit").run(driver)
    with python(tiny_copy) as session:
        calls = [lambda: session.record(**BASE), lambda: session.edit(**wide)]
        expected = [said_by_python(call) for call in calls]
    said = [answer if answer.startswith("RuntimeFailure") else "" for answer in answers]
    assert said == [sentence if sentence.startswith("RuntimeFailure") else "" for sentence in expected]
    assert any("failed in ONNX Runtime" in sentence for sentence in said)
