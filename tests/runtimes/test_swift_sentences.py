"""The Swift package refuses what Python refuses, with the same sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from swift_package import Script
from test_cpp_sentences import DAMAGED, changed, linked, said_by_python, ways

import sige_deploy as sige
from sige_deploy.bundle import open_bundle
from sige_deploy.inputs import checked, checked_mask

pytestmark = pytest.mark.xdist_group("swift")
BASE = tiny.inputs()


def test_each_value_of_the_manifest_is_checked_as_in_python(
    tiny_path: Path, swift_script: Script, tmp_path: Path
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
        said = said_by_python(lambda folder=folder: open_bundle(folder))
        # Graphs are no business of a device: their sizes are not checked there.
        expected.append("ok done" if ".onnx' has" in said else said)
        swift_script.add("open", folder)
    answers = swift_script.run()
    assert answers[0] == "ok done"
    assert dict(enumerate(answers)) == dict(enumerate(expected))
    assert sum(sentence != "ok done" for sentence in expected) > 500


def test_folders_that_are_no_bundles_are_refused_as_in_python(
    tiny_path: Path, swift_script: Script, tmp_path: Path
) -> None:
    folders = []
    for name in ("manifest.json", "geometry.safetensors"):
        folders.append(linked(tiny_path, tmp_path / f"folder {name}", name))
        (folders[-1] / name).mkdir()
        folders.append(linked(tiny_path, tmp_path / f"nothing {name}", name))
        folders.append(linked(tiny_path, tmp_path / f"link {name}", name))
        (folders[-1] / name).symlink_to(tiny_path / name)
        folders.append(linked(tiny_path, tmp_path / f"more {name}", name))
        shutil.copy(tiny_path / name, folders[-1])
        with (folders[-1] / name).open("ab") as file:
            file.write(b" ")
    (folders[-4] / "geometry.safetensors").touch()
    altered = linked(tiny_path, tmp_path / "altered", "geometry.safetensors")
    data = bytearray((tiny_path / "geometry.safetensors").read_bytes())
    data[-1] ^= 1
    (altered / "geometry.safetensors").write_bytes(data)
    (tmp_path / "file").write_text("no bundle")
    folders += [altered, tmp_path / "file", tmp_path / "none" / ".." / "void"]
    for folder in folders:
        swift_script.add("open", folder)
    expected = [said_by_python(lambda folder=folder: open_bundle(folder)) for folder in folders]
    assert swift_script.run() == expected
    assert len(set(expected)) == len(expected) and expected.count("ok done") == 1


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_tables_get_the_sentences_of_python(tiny_copy: Path, swift_script: Script, how: str) -> None:
    """Files that fit their checksums: whoever made the bundle made a mistake."""
    tiny.damage_tables(tiny_copy, how)
    swift_script.add("open", tiny_copy)
    answer = swift_script.run()[0]

    def tables_made() -> None:
        with sige.open(tiny_copy, threads=1) as session:
            session.record(**BASE)
            session.edit(**tiny.edited(BASE, slice(3, 6), slice(4, 9)))

    expected = said_by_python(tables_made)
    if how == "truncated":  # the reason is the parser's
        expected, answer = (text.partition("(")[0] for text in (expected, answer))
    assert answer == expected
    assert expected.startswith("BundleError")


def test_inputs_are_refused_as_in_python(tiny_path: Path, swift_script: Script) -> None:
    bundle = open_bundle(tiny_path)
    whole = {f"recorded.{name}": array for name, array in BASE.items()}
    image, gain = BASE["image"], BASE["gain"]
    given = [
        {**BASE, "other": gain},
        {"image": image, "gain": gain},
        {**BASE, "image": image.astype(np.float64)},
        {**BASE, "image": image[:, :, 1:]},
        {**BASE, "offset": np.array(1, np.float32)},
    ]
    expected = []
    for inputs in given:
        expected.append(said_by_python(lambda inputs=inputs: checked(bundle.manifest.inputs, inputs)))
        arrays = {f"given.{name}": np.asarray(array) for name, array in inputs.items()} | whole
        swift_script.add("edit", tiny_path, swift_script.file(**arrays), swift_script.result())
    with sige.open(tiny_path, threads=1) as session:
        session.record(**BASE)
        for inputs in ({**BASE, "image": image * np.inf}, {**BASE, "gain": gain + 1}):
            expected.append(said_by_python(lambda inputs=inputs: session.edit(**inputs)))
            arrays = {f"given.{name}": array for name, array in inputs.items()} | whole
            swift_script.add("edit", tiny_path, swift_script.file(**arrays), swift_script.result())
    mask = np.zeros((3, 4), bool)
    expected.append(said_by_python(lambda: checked_mask(mask, 16, 24)))
    arrays = {f"given.{name}": array for name, array in BASE.items()} | whole | {"mask": mask}
    swift_script.add("edit", tiny_path, swift_script.file(**arrays), swift_script.result())
    assert swift_script.run() == expected
    assert all(sentence.startswith("InputError") for sentence in expected)
