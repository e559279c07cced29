"""TensorRT engines of a bundle: folders `tensorrt/<target>/`, checked before TensorRT reads any of them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from sige_deploy import files
from sige_deploy.errors import BundleError, RuntimeFailure
from sige_deploy.kernels.library import API_VERSION
from sige_deploy.manifest import FileSpec, Spec

if TYPE_CHECKING:
    from sige_deploy.bundle import Bundle

FOLDER: Final = "tensorrt"
MANIFEST: Final = "engine.json"
SCHEMA_VERSION: Final = 1
GRAPHS: Final = ("record", "edit", "dense")
NAMES: Final = tuple(f"{graph}.engine" for graph in GRAPHS)
MANIFEST_LIMIT: Final = 64 << 20  # bytes

Flavour = Literal["tensorrt", "tensorrt-rtx"]
TITLES: Final[dict[str, str]] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Compute capability of a GPU, e.g. "8.6".
Capability = Annotated[str, Field(pattern=r"^\d+\.\d$")]


class PluginSpec(Spec):
    """The libraries that an engine calls: the kernels' API version, and the SHA-256 (hex) of each file."""

    api_version: int
    libsige_tensorrt: Digest
    libsige_kernels: Digest

    @classmethod
    def of(cls, plugin: Path, kernels: Path) -> PluginSpec:
        """Of the files libsige_tensorrt and libsige_kernels."""
        return cls(
            api_version=API_VERSION,
            libsige_tensorrt=files.sha256(plugin),
            libsige_kernels=files.sha256(kernels),
        )


class ContentSpec(Spec):
    """What an engine was built from: layers of the parsed network, and the names of those that are plugins.
    `stored`: names of the plugins that the engine holds to make again (TensorRT for RTX only)."""

    layers: Annotated[int, Field(ge=1)]
    plugins: dict[str, str]
    stored: list[str] | None = None


class EngineManifest(Spec):
    """Everything that must hold before an engine is deserialised.

    bundle: id of the bundle. version: of TensorRT, in full. capabilities: of the GPUs that the engines run
    on. gpu: the one that they were tuned on, None if they were built ahead of time. profiles: of the edit
    engine, in its order: (least, best, most) rows of each level by id. contents, files: by file name.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    bundle: Digest
    flavour: Flavour
    version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")]
    capabilities: Annotated[list[Capability], Field(min_length=1)]
    gpu: str | None = None
    precision: str
    plugin: PluginSpec
    profiles: Annotated[list[dict[str, tuple[int, int, int]]], Field(min_length=1)]
    contents: dict[str, ContentSpec]
    files: dict[str, FileSpec]
    producer: dict[str, str]

    @field_validator("files")
    @classmethod
    def _all_engines_are_there(cls, listed: dict[str, FileSpec]) -> dict[str, FileSpec]:
        if sorted(listed) != sorted(NAMES):
            raise ValueError(f"it lists {', '.join(listed) or 'nothing'} instead of {', '.join(NAMES)}")
        return listed

    @property
    def target(self) -> str:
        """Name of the folder."""
        return target_name(self.flavour, self.version, self.capabilities)

    def __str__(self) -> str:
        return f"{TITLES[self.flavour]} {self.version} on {_listed(self.capabilities)}"


def target_name(flavour: Flavour, version: str, capabilities: Sequence[str]) -> str:
    """ "rtx-1.7-sm86+sm89" of ("tensorrt-rtx", "1.7.1.116", ["8.6", "8.9"]); "10.16-sm90" for TensorRT."""
    short = ".".join(version.split(".")[:2])
    prefix = "rtx-" if flavour == "tensorrt-rtx" else ""
    return f"{prefix}{short}-{'+'.join(map(architecture, sorted_capabilities(capabilities)))}"


def architecture(capability: str) -> str:
    """ "sm86" of "8.6"."""
    return f"sm{capability.replace('.', '')}"


def sorted_capabilities(capabilities: Sequence[str]) -> list[str]:
    """Without repetition, the oldest GPUs first."""
    return sorted(set(capabilities), key=lambda text: [int(part) for part in text.split(".")])


def rebuild(bundle: Bundle, flavour: str, capability: str) -> str:
    """The command that builds engines for a GPU."""
    command = f"sige-deploy build {bundle.root} --target {flavour}"
    return f"{command} --targets {architecture(capability)}" if flavour == "tensorrt-rtx" else command


def engine_folders(bundle: Bundle) -> list[Path]:
    """The folders of a bundle that hold an engine manifest, sorted by name."""
    return sorted(path.parent for path in (bundle.root / FOLDER).glob(f"*/{MANIFEST}"))


def find_engine(bundle: Bundle, flavour: Flavour, version: str, capability: str) -> Path:
    """The folder whose engines this TensorRT can run on this GPU, by its manifest alone. Raises
    RuntimeFailure with what there is instead, and the command that builds what is missing."""
    others = []
    for folder in engine_folders(bundle):
        try:
            manifest = _parse(folder)
        except BundleError:
            others.append(f"a damaged one in '{folder.name}'")
            continue
        if (manifest.flavour, manifest.version) == (flavour, version) and capability in manifest.capabilities:
            return folder
        others.append(str(manifest))
    there = f"only for {'; '.join(others)}" if others else "and none for any other"
    raise RuntimeFailure(
        f"bundle '{bundle.root}' has no engine for {TITLES[flavour]} {version} on compute capability "
        f"{capability}, {there}; run '{rebuild(bundle, flavour, capability)}'."
    )


def read_engine(folder: str | os.PathLike[str]) -> EngineManifest:
    """Check a folder of engines and return its manifest: schema, then path, size and SHA-256 of every file.
    Raises BundleError with one sentence on the first thing that is wrong."""
    root = Path(os.path.abspath(folder))
    manifest = _parse(root)
    for name, spec in manifest.files.items():
        _check_file(root / name, spec)
    return manifest


def check_engine(
    manifest: EngineManifest,
    *,
    flavour: Flavour,
    version: str,
    capability: str,
    plugin: PluginSpec,
    bundle: Bundle,
) -> None:
    """Refuse engines that are not for this bundle, TensorRT, GPU (compute capability) and plugin library.

    Raises BundleError for another bundle, else RuntimeFailure: one sentence with what the engines were built
    for, what is here, and the command that builds them anew.
    """
    again = f"; run '{rebuild(bundle, flavour, capability)}'."
    if manifest.bundle != bundle.id:
        raise BundleError(
            f"the engines were built from bundle {manifest.bundle[:12]}, '{bundle.root}' is {bundle.id[:12]}"
            + again
        )
    ours, theirs = f"{TITLES[flavour]} {version}", f"{TITLES[manifest.flavour]} {manifest.version}"
    if ours != theirs:
        raise RuntimeFailure(f"the engines were built by {theirs}, this is {ours}" + again)
    if capability not in manifest.capabilities:
        raise RuntimeFailure(
            f"the engines were built for {_listed(manifest.capabilities)}, this GPU has {capability}" + again
        )
    if manifest.plugin.api_version != plugin.api_version:
        raise RuntimeFailure(
            f"the engines were built with kernels of API version {manifest.plugin.api_version}, "
            f"those installed have {plugin.api_version}" + again
        )
    for name in ("libsige_tensorrt", "libsige_kernels"):
        built, here = getattr(manifest.plugin, name), getattr(plugin, name)
        if built != here:
            raise RuntimeFailure(
                f"the engines were built with the {name} whose SHA-256 begins with {built[:12]}, that of the "
                f"installed one begins with {here[:12]}" + again
            )


def listed_files(root: Path) -> set[str]:
    """Names, relative to a bundle's folder, of everything that its engine manifests list."""
    names = set()
    for path in (root / FOLDER).glob(f"*/{MANIFEST}"):
        names |= {f"{FOLDER}/{path.parent.name}/{name}" for name in (MANIFEST, *NAMES)}
    return names


def _listed(capabilities: Sequence[str]) -> str:
    kind = "compute capability" if len(capabilities) == 1 else "compute capabilities"
    return f"{kind} {', '.join(capabilities)}"


def _parse(folder: Path) -> EngineManifest:
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MANIFEST_LIMIT:
            raise BundleError(f"'{path}' is not an engine manifest; {_AGAIN}.")
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read '{path}' ({error.strerror}); {_AGAIN}.") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is truncated or not JSON ({error}); {_AGAIN}.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"'{path}' has schema_version {version}, this sige_deploy reads {SCHEMA_VERSION}; {_AGAIN}."
        )
    try:
        return EngineManifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise BundleError(f"'{path}' is not valid at {where}: {what}; {_AGAIN}.") from None


_AGAIN = "build the engines anew with 'sige-deploy build'"


def _check_file(path: Path, spec: FileSpec) -> None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"'{path}' is not a regular file; {_AGAIN}.")
        if status.st_size != spec.bytes:
            raise BundleError(
                f"'{path}' has {status.st_size} bytes, its manifest says {spec.bytes}: it is truncated or of "
                f"another engine; {_AGAIN}."
            )
        digest = files.sha256(path)
    except OSError as error:
        raise BundleError(f"cannot read '{path}' ({error.strerror}); {_AGAIN}.") from error
    if digest != spec.sha256:
        raise BundleError(f"'{path}' was altered: its SHA-256 is not its manifest's; {_AGAIN}.")
