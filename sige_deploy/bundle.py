"""The bundle: a folder that is checked before anything in it is parsed, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sige_deploy import engines, files
from sige_deploy.coreml import manifest as coreml
from sige_deploy.errors import BundleError
from sige_deploy.geometry import Geometry, Level, geometries_from_tensors
from sige_deploy.manifest import OP_SET_VERSION, SCHEMA_VERSION, FileSpec, Manifest
from sige_deploy.masks import MaskPolicy

MANIFEST = "manifest.json"
GEOMETRY = "geometry.safetensors"
REQUIRED = ("record.onnx", "edit.onnx", "edit_inlined.onnx", "dense.onnx", "weights.safetensors", GEOMETRY)
MANIFEST_LIMIT = 64 << 20  # bytes


class Bundle:
    """A checked bundle. Its files are parsed only when asked for."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._stamps = self._stamp_files()

    def __repr__(self) -> str:
        return f"Bundle({str(self.root)!r}, name={self.manifest.name!r})"

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the manifest's file list."""
        return self.manifest.bundle_id

    def path(self, name: str) -> Path:
        """Path of one of the bundle's files. Raises BundleError if the manifest does not list it, or if any
        file was replaced since the bundle was opened: graphs and weights must be of one export."""
        if name not in self.manifest.files:
            raise BundleError(f"bundle '{self.root}' holds no file '{name}'; export it anew.")
        if self._stamp_files() != self._stamps:
            raise BundleError(f"bundle '{self.root}' changed since it was opened; open it again.")
        return self.root / name

    def _stamp_files(self) -> dict[str, tuple[int, int, int] | None]:
        """Inode, modification time and size of each file; None if there is none."""
        stamps: dict[str, tuple[int, int, int] | None] = {}
        for name in self.manifest.files:
            try:
                status = os.stat(self.root / name)
                stamps[name] = status.st_ino, status.st_mtime_ns, status.st_size
            except OSError:
                stamps[name] = None
        return stamps

    def levels(self) -> list[Level]:
        """The spatial levels, in the manifest's order."""
        return [Level(x.id, x.height, x.width, x.geometry) for x in self.manifest.levels]

    def geometries(self) -> list[Geometry]:
        """The neighbourhood geometries of geometry.safetensors; raises BundleError if they do not fit."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.path(GEOMETRY)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise BundleError(
                f"'{path}' is not a safetensors file ({error}); export the bundle anew."
            ) from error
        return geometries_from_tensors(
            tensors, [(g.id, g.source, g.target) for g in self.manifest.geometries]
        )

    def policy(self) -> MaskPolicy:
        """How an edit's mask becomes active pixels."""
        spec = self.manifest.policy
        return MaskPolicy(
            eps=spec.eps,
            dilate=spec.dilate,
            threshold=spec.threshold,
            level_dilate={x.id: x.dilation for x in self.manifest.levels},
            granularity={x.id: x.granularity for x in self.manifest.levels},
        )

    def update_planner(
        self,
        dense_above: float | None = None,
        calibrated: bool = True,
        *,
        gpu_dense_above: float | None = None,
    ) -> None:
        """Write new planner thresholds (active fractions of MACs, >= 0; None: as it was) into the manifest;
        the id stays. calibrated: whether `dense_above` was measured."""
        given = {"dense_above": dense_above, "gpu_dense_above": gpu_dense_above}
        update: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if value is not None and not 0 <= value < float("inf"):
                raise BundleError(f"{name} is a fraction of the dense work, 0 or more, not {value}.")
        if dense_above is not None:
            update["calibrated"] = calibrated
        planner = self.manifest.planner.model_copy(update=update)
        manifest = self.manifest.model_copy(update={"planner": planner})
        try:
            with files.replacing(self.root / MANIFEST) as file:
                file.write(_to_json(manifest))
        except OSError as error:
            raise BundleError(
                f"cannot write '{self.root / MANIFEST}' ({error.strerror}); make it writable."
            ) from error
        self.manifest = manifest


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Check a bundle folder and return it: manifest, versions, paths, sizes and SHA-256 of every file, before
    anything is parsed or loaded. Raises BundleError with one sentence on the first thing that is wrong."""
    root = Path(os.path.abspath(path))
    if not root.is_dir():
        raise BundleError(
            f"there is no bundle at '{root}'; expected the folder that sige_deploy.export wrote."
        )
    manifest = _parse(root, _read_json(root))
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(
                f"the manifest of bundle '{root}' does not list '{name}'; export the bundle anew."
            )
    bundle = Bundle(root, manifest)
    for name, spec in manifest.files.items():
        _check_file(root, name, spec)
    return bundle


class BundleWriter:
    """A bundle in the making: write files into `folder`, then call `finish`."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target

    def finish(self, manifest: Manifest) -> Bundle:
        """Hash every file of `folder`, add the list to `manifest` (whose `files` is ignored), and put the
        folder in place; an older bundle there goes only now. Returns the bundle; raises BundleError."""
        try:
            whole = manifest.model_copy(update={"files": self._list_files()})
            with files.replacing(self.folder / MANIFEST) as out:
                out.write(_to_json(whole))
            _check_target(self.target)
            files.replace_folder(self.folder, self.target)
        except OSError as error:
            raise BundleError(
                f"cannot write the bundle '{self.target}' ({error.strerror}); "
                "choose a folder that you can write to."
            ) from error
        return Bundle(self.target, whole)

    def _list_files(self) -> dict[str, FileSpec]:
        listed: dict[str, FileSpec] = {}
        for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            listed[file.relative_to(self.folder).as_posix()] = FileSpec.of(file)
        for name in REQUIRED:
            if name not in listed:
                raise BundleError(f"cannot finish bundle '{self.target}': '{name}' was not written.")
        return listed


@contextlib.contextmanager
def write_bundle(path: str | os.PathLike[str]) -> Iterator[BundleWriter]:
    """Write a bundle crash-safely:

        with write_bundle("gaugan.sige") as writer:
            ...                                  # record.onnx, edit.onnx, ... into writer.folder
            bundle = writer.finish(manifest)

    `writer.folder` is a hidden sibling of `path`; without `finish`, or if the block raises, it is removed and
    `path` stays as it was. Raises BundleError if `path` is a file, holds something that is not a bundle, or
    cannot be written.
    """
    target = Path(os.path.realpath(path))
    _check_target(target)
    folder = files.sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise BundleError(
            f"cannot write a bundle to '{target}' ({error.strerror}); choose a folder that you can write to."
        ) from error
    try:
        yield BundleWriter(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_target(target: Path) -> None:
    """Refuse to replace anything that is not a bundle, or a bundle in which someone keeps other files; its
    engines and Core ML models, which are of no use to a new one, go with it."""
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"'{target}' is a file; a bundle is a folder, so choose another path.")
    if not any(target.iterdir()):
        return
    try:
        known = {
            MANIFEST,
            *_parse(target, _read_json(target)).files,
            *engines.listed_files(target),
            *coreml.listed_files(target),
        }
    except BundleError:
        raise BundleError(
            f"'{target}' is not empty and is not a bundle; choose an empty or a new folder."
        ) from None
    for file in target.rglob("*"):
        if not file.is_dir() and file.relative_to(target).as_posix() not in known:
            raise BundleError(
                f"'{file}' is not part of the bundle that would be replaced; move it or choose another path."
            )


def _read_json(root: Path) -> Any:
    path = root / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MANIFEST_LIMIT:
            raise BundleError(f"'{path}' is not a manifest; export the bundle anew.")
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read '{path}' ({error.strerror}); expected the folder that sige_deploy.export wrote."
        ) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"'{path}' is truncated or not JSON ({error}); copy or export the bundle anew."
        ) from error


def _parse(root: Path, data: Any) -> Manifest:
    """Schema check, versions first: a newer schema may differ anywhere."""
    if not isinstance(data, dict):
        raise BundleError(f"the manifest of bundle '{root}' is not a JSON object; export the bundle anew.")
    for key, known in (("schema_version", SCHEMA_VERSION), ("op_set_version", OP_SET_VERSION)):
        version = data.get(key)
        if isinstance(version, bool) or not isinstance(version, int):
            raise BundleError(f"the manifest of bundle '{root}' has no {key}; export the bundle anew.")
        if version > known:
            raise BundleError(
                f"bundle '{root}' has {key} {version}, this sige_deploy reads up to {known}; "
                "upgrade sige_deploy."
            )
        if version < known:
            raise BundleError(
                f"bundle '{root}' has {key} {version}, this sige_deploy reads {known}; "
                "export the bundle anew."
            )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise BundleError(
            f"the manifest of bundle '{root}' is not valid{f' at {where}' if where else ''}: {what}; "
            "export the bundle anew."
        ) from None


def _check_file(root: Path, name: str, spec: FileSpec) -> None:
    path = root / name
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, real_root]) != real_root:
        raise BundleError(
            f"'{name}' of bundle '{root}' is a link that leaves the bundle; "
            "copy the file itself into the bundle."
        )
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"'{path}' is not a regular file; copy or export the bundle anew.")
        if status.st_size != spec.bytes:
            raise BundleError(
                f"'{path}' has {status.st_size} bytes, the manifest says {spec.bytes}: it is truncated or of "
                "another bundle; copy or export the bundle anew."
            )
        digest = files.sha256(path)
    except OSError as error:
        raise BundleError(
            f"cannot read '{path}' ({error.strerror}); copy or export the bundle anew."
        ) from error
    if digest != spec.sha256:
        raise BundleError(
            f"'{path}' was altered: its SHA-256 is not the manifest's; copy or export the bundle anew."
        )


def _to_json(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode() + b"\n"
