"""Packages: a bundle with all that an application needs to run it, in one folder that can be handed on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sige_deploy import engines, files, packaging_cpp, packaging_swift
from sige_deploy.bundle import MANIFEST, Bundle, open_bundle
from sige_deploy.errors import InputError

BUNDLE = "bundle"  # name of the folder in the package that holds the bundle


@dataclass(frozen=True)
class Package:
    """A folder that `package` wrote. files, bytes: how many there are, and what they take in all."""

    folder: Path
    files: int
    bytes: int


def package(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    target: str = "cpp",
    libraries: str | os.PathLike[str] | None = None,
) -> Package:
    """Write a folder with a checked copy of a bundle and what runs it; it appears whole or not at all.

    target: "cpp": the C++ library for this system, ONNX Runtime, headers, and an example with its own CMake
        project; needs no Python and no sources of sige_deploy where it goes. "swift": a package that Xcode
        opens, with SIGEKit, the bundle's Core ML models and a self-test.
    folder: a new or an empty one.
    libraries: for "cpp", the prefix that the C++ library was installed to; None: what `make cpp` built in the
        checkout that sige_deploy runs from.

    Raises BundleError for an invalid bundle, or one without the Core ML models that "swift" needs, InputError
    for an unknown target or a folder that is not empty or cannot be written, RuntimeFailure when the
    libraries are missing or of another version.
    """
    if target not in TARGETS:
        raise InputError(f"there is no target '{target}' to package for; use {' or '.join(TARGETS)}.")
    opened = open_bundle(bundle)
    place = Path(os.path.realpath(folder))
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"'{folder}' is not an empty folder; choose an empty or a new one.")
    made = files.sibling(place)
    try:
        made.mkdir(parents=True)
        TARGETS[target](made, opened, None if libraries is None else Path(libraries))
        sizes = [path.lstat().st_size for path in made.rglob("*") if not path.is_dir()]
        os.rename(made, place)  # takes the place of an empty folder
    except OSError as error:
        raise InputError(
            f"cannot write a package to '{folder}' ({error.strerror}); choose a folder that you can write to."
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    files.sync_folder(place.parent)
    return Package(place, len(sizes), sum(sizes))


def _fill_cpp(folder: Path, bundle: Bundle, libraries: Path | None) -> None:
    _copy_bundle(bundle, folder / BUNDLE)
    packaging_cpp.fill(folder, bundle, libraries)


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    """The files that the manifest lists, and engines, which it does not; checked once more there."""
    for name in (MANIFEST, *bundle.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, folder / name)
    if (bundle.root / engines.FOLDER).is_dir():
        shutil.copytree(bundle.root / engines.FOLDER, folder / engines.FOLDER)
    open_bundle(folder)


#: What fills the folder of a package: (folder, bundle, where the libraries are).
TARGETS: dict[str, Callable[[Path, Bundle, Path | None], None]] = {
    "cpp": _fill_cpp,
    "swift": packaging_swift.fill,
}
