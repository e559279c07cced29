"""Bundles: what is refused before anything is parsed, and writing that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from sige_deploy import files
from sige_deploy.bundle import REQUIRED, open_bundle, write_bundle
from sige_deploy.errors import BundleError


def edit_manifest(path: Path, **changes: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_good_bundle_opens(tiny_path: Path) -> None:
    bundle = open_bundle(tiny_path)
    assert bundle.manifest.name == "tiny"
    assert set(REQUIRED) == set(bundle.manifest.files)
    assert bundle.path("edit.onnx").is_file()
    assert [(level.id, level.shape) for level in bundle.levels()] == [("16x24", (16, 24))]
    (geometry,) = bundle.geometries()
    assert geometry.kernel == (3, 3)
    assert bundle.policy().dilation_of("16x24") == 1


def test_opening_reads_no_graph(tiny_copy: Path) -> None:
    """Garbage with a right checksum opens: nothing but the manifest is parsed."""
    (tiny_copy / "edit.onnx").write_bytes(b"garbage")
    tiny.rewrite_checksums(tiny_copy)
    assert open_bundle(tiny_copy).manifest.name == "tiny"


@pytest.mark.parametrize("name", REQUIRED)
def test_one_altered_byte_is_found(tiny_copy: Path, name: str) -> None:
    data = bytearray((tiny_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tiny_copy / name).write_bytes(data)
    assert name in refusal(tiny_copy) and "altered" in refusal(tiny_copy)


def test_a_truncated_file_is_found(tiny_copy: Path) -> None:
    file = tiny_copy / "weights.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert "truncated" in refusal(tiny_copy)


def test_a_missing_file_is_found(tiny_copy: Path) -> None:
    (tiny_copy / "dense.onnx").unlink()
    assert "dense.onnx" in refusal(tiny_copy)


def test_a_manifest_without_a_needed_file_is_refused(tiny_copy: Path) -> None:
    listed = json.loads((tiny_copy / "manifest.json").read_text())["files"]
    del listed["weights.safetensors"]
    edit_manifest(tiny_copy, files=listed)
    assert "does not list 'weights.safetensors'" in refusal(tiny_copy)


@pytest.mark.parametrize("key", ["schema_version", "op_set_version"])
def test_a_newer_version_is_refused_whatever_else_it_holds(tiny_copy: Path, key: str) -> None:
    edit_manifest(tiny_copy, **{key: 2, "inputs": "of another kind"})
    assert f"{key} 2" in refusal(tiny_copy) and "upgrade" in refusal(tiny_copy)


@pytest.mark.parametrize("version", [0, "1", None, True])
def test_an_older_or_absent_version_is_refused(tiny_copy: Path, version: object) -> None:
    edit_manifest(tiny_copy, schema_version=version)
    assert "schema_version" in refusal(tiny_copy)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"surprise": 1}, "surprise"),
        ({"levels": []}, "which is not listed"),
        ({"precision": None}, "precision"),
        ({"planner": {"dense_above": -1}}, "dense_above"),
        ({"name": 3}, "name"),
    ],
)
def test_a_manifest_outside_the_schema_is_refused(
    tiny_copy: Path, changes: dict[str, Any], word: str
) -> None:
    edit_manifest(tiny_copy, **changes)
    assert word in refusal(tiny_copy)


@pytest.mark.parametrize("text", ["", '{"schema_version": 1, "na', "[1]", "[" * 100_000, "\xff\xfe"])
def test_a_manifest_that_is_not_json_is_refused(tiny_copy: Path, text: str) -> None:
    (tiny_copy / "manifest.json").write_text(text, encoding="latin-1")
    assert "manifest" in refusal(tiny_copy)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "./edit.onnx", "a\\b", "C:x", "", "a//b"]
)
def test_a_path_that_escapes_is_refused(tiny_copy: Path, name: str) -> None:
    outside = tiny_copy.parent / "outside"
    outside.write_bytes(b"")
    listed = json.loads((tiny_copy / "manifest.json").read_text())["files"]
    listed[name] = {"sha256": files.sha256(outside), "bytes": 0}
    edit_manifest(tiny_copy, files=listed)
    assert "not a plain relative path" in refusal(tiny_copy)


def test_a_link_out_of_the_bundle_is_refused(tiny_copy: Path) -> None:
    outside = tiny_copy.parent / "outside"
    shutil.move(tiny_copy / "edit.onnx", outside)
    (tiny_copy / "edit.onnx").symlink_to(outside)
    assert "link that leaves the bundle" in refusal(tiny_copy)


def test_a_pipe_in_place_of_a_file_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "edit.onnx").unlink()
    os.mkfifo(tiny_copy / "edit.onnx")
    assert "not a regular file" in refusal(tiny_copy)


@pytest.mark.parametrize("path", ["nothing", "file", "empty"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    assert "export" in refusal(tmp_path / path)


def test_update_planner_keeps_the_id(tiny_copy: Path) -> None:
    bundle = open_bundle(tiny_copy)
    before = bundle.id
    bundle.update_planner(0.25)
    for reread in (bundle, open_bundle(tiny_copy)):
        assert reread.manifest.planner.dense_above == 0.25
        assert reread.manifest.planner.calibrated
        assert reread.id == before
    with pytest.raises(BundleError, match="0 or more"):
        bundle.update_planner(float("nan"))


def test_update_planner_for_gpus_leaves_the_other_threshold(tiny_copy: Path) -> None:
    bundle = open_bundle(tiny_copy)
    before = bundle.manifest.planner
    bundle.update_planner(gpu_dense_above=0.75)
    after = open_bundle(tiny_copy).manifest.planner
    assert (after.dense_above, after.gpu_dense_above, after.calibrated) == (
        before.dense_above, 0.75, before.calibrated,
    )  # fmt: skip
    with pytest.raises(BundleError, match="gpu_dense_above is a fraction"):
        bundle.update_planner(gpu_dense_above=-1.0)


def test_writing_leaves_nothing_beside(tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path / "new" / "tiny")
    assert names(tmp_path / "new") == {"tiny"}
    assert names(tmp_path / "new" / "tiny") == {"manifest.json", *REQUIRED}


def test_a_bundle_is_replaced_only_at_the_end(tiny_copy: Path) -> None:
    before = open_bundle(tiny_copy)
    with pytest.raises(ZeroDivisionError), write_bundle(tiny_copy) as writer:
        (writer.folder / "edit.onnx").write_bytes(b"half")
        assert open_bundle(tiny_copy).id == before.id
        raise ZeroDivisionError
    assert open_bundle(tiny_copy).id == before.id
    assert names(tiny_copy.parent) == {"copy"}


def test_a_bundle_is_replaced(tiny_copy: Path) -> None:
    tiny.write_tiny(tiny_copy, schema={"name": "newer"})
    assert open_bundle(tiny_copy).manifest.name == "newer"
    assert names(tiny_copy.parent) == {"copy"}


def test_the_old_bundle_comes_back_if_the_new_one_cannot_take_its_place(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, before = os.rename, open_bundle(tiny_copy).id

    def failing(source: Path, target: Path) -> None:
        if Path(target) == tiny_copy and (Path(source) / "marker").exists():
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    manifest = open_bundle(tiny_copy).manifest
    with pytest.raises(BundleError, match="No space left"), write_bundle(tiny_copy) as writer:
        for name in (*REQUIRED, "marker"):
            (writer.folder / name).write_bytes(b"x")
        writer.finish(manifest)
    assert open_bundle(tiny_copy).id == before
    assert names(tiny_copy.parent) == {"copy"}


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(BundleError, match="not empty and is not a bundle"):
        tiny.write_tiny(tmp_path / "photos")
    assert names(tmp_path / "photos") == {"cat.png"}


def test_a_bundle_in_which_other_files_are_kept_is_not_replaced(tiny_copy: Path) -> None:
    (tiny_copy / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"notes\.txt' is not part of the bundle"):
        tiny.write_tiny(tiny_copy)
    assert open_bundle(tiny_copy).manifest.name == "tiny"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tiny.write_tiny(tmp_path / "empty")
    open_bundle(tmp_path / "empty")


@pytest.mark.parametrize("inside", ["", "sub/tiny"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BundleError, match=r"choose (another path|a folder)[^\n]*\.$"):
        tiny.write_tiny(tmp_path / "file" / inside)


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BundleError, match=r"Permission denied.*choose a folder"):
        tiny.write_tiny(tmp_path / "tiny")


def test_an_unfinished_bundle_is_refused(tmp_path: Path, tiny_path: Path) -> None:
    manifest = open_bundle(tiny_path).manifest
    missing = r"'record\.onnx' was not written"
    with pytest.raises(BundleError, match=missing), write_bundle(tmp_path / "half") as writer:
        writer.finish(manifest)
    assert names(tmp_path) == set()


def test_damaged_geometry_is_a_bundle_error(tiny_copy: Path) -> None:
    for content in (b"", b"x" * 100):
        (tiny_copy / "geometry.safetensors").write_bytes(content)
        tiny.rewrite_checksums(tiny_copy)
        with pytest.raises(BundleError, match="safetensors"):
            open_bundle(tiny_copy).geometries()


def test_sha256_of_a_file_longer_than_a_chunk(tmp_path: Path) -> None:
    import hashlib

    data = np.random.default_rng(0).bytes(files.CHUNK * 2 + 5)
    (tmp_path / "data").write_bytes(data)
    assert files.sha256(tmp_path / "data") == hashlib.sha256(data).hexdigest()
