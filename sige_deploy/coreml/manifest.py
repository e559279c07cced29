"""Core ML models of a bundle: the folder `coreml/<name>/` and its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from sige_deploy import files
from sige_deploy.errors import BundleError
from sige_deploy.manifest import FileSpec, Shape, Spec

if TYPE_CHECKING:
    from sige_deploy.bundle import Bundle

FOLDER: Final = "coreml"
MANIFEST: Final = "coreml.json"
NAME: Final = "float16"
RECORD: Final = "record.mlpackage"
SCHEMA_VERSION: Final = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_AGAIN = "build the models anew with 'sige-deploy build --target coreml'"


class TensorSpec(Spec):
    """An input or output of the edit models, [1, channels, 1, P]: P is the bucket's rows of `level`; without
    one it is 1, or all pixels of what a Scatter gives."""

    name: str
    channels: Annotated[int, Field(ge=1)]
    level: str | None = None


class ArraySpec(Spec):
    """A recorded array that layers read out of the context by name: base [1, N, C] or affine [1, 1, C]."""

    name: str
    shape: Shape


class GeometrySpec(Spec):
    """A table int32 [rows of `target`, taps] and its halo, which layers read out of the context by id."""

    id: str
    source: str
    target: str
    taps: Annotated[int, Field(ge=1)]
    phases: Annotated[int, Field(ge=1)]


class LayerSpec(Spec):
    """A custom layer. parameters: without `rows`, which is the bucket's; an infinite one is the text
    "Infinity" or "-Infinity"."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        populate_by_name=True, ser_json_inf_nan="strings", allow_inf_nan=True
    )

    name: str
    class_: Annotated[str, Field(alias="class")]
    op: str
    parameters: dict[str, int | float | str]
    weights: list[str]


class CoreMLManifest(Spec):
    """What a host has to know of the models.

    bundle: id of the bundle. context: number by which the layers know their context. buckets: rows of each
    level by id, of `edit-<k>.mlmodel` the k-th, the smallest first. record: name of the dense model that
    fills the bases; None: Core ML cannot run it, for the reason `record_refused`. record_inputs,
    record_outputs: names of the bundle's inputs, and of its outputs and caches, by the record model's. files:
    by name.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    bundle: Digest
    precision: Literal["float16"] = "float16"
    context: Annotated[int, Field(ge=0, lt=1 << 31)]
    buckets: Annotated[list[dict[str, Annotated[int, Field(ge=1)]]], Field(min_length=1)]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    arrays: list[ArraySpec]
    geometries: list[GeometrySpec]
    active: list[str]
    layers: list[LayerSpec]
    record: str | None = None
    record_inputs: dict[str, str] = Field(default_factory=dict)
    record_outputs: dict[str, str] = Field(default_factory=dict)
    record_refused: str | None = None
    files: dict[str, FileSpec]
    producer: dict[str, str] = Field(default_factory=dict)


def listed_files(root: Path) -> set[str]:
    """Names, relative to a bundle's folder, of everything that its Core ML manifests list; none of one that
    cannot be read."""
    names = set()
    for path in (root / FOLDER).glob(f"*/{MANIFEST}"):
        try:
            listed = _parse(path).files
        except BundleError:
            continue
        names |= {f"{FOLDER}/{path.parent.name}/{name}" for name in (MANIFEST, *listed)}
    return names


def read_models(bundle: Bundle) -> tuple[Path, CoreMLManifest]:
    """The folder of a bundle's Core ML models and its manifest, sizes and SHA-256 checked. Raises BundleError
    where there are none, or they are altered or of another bundle."""
    folder = bundle.root / FOLDER / NAME
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"bundle '{bundle.root}' has no Core ML models; {_AGAIN}.")
    manifest = _parse(folder / MANIFEST)
    if manifest.bundle != bundle.id:
        raise BundleError(f"the models of '{folder}' were built from another bundle; {_AGAIN}.")
    for name, spec in manifest.files.items():
        path = folder / name
        try:
            whole = path.stat().st_size == spec.bytes and files.sha256(path) == spec.sha256
        except OSError as error:
            raise BundleError(f"cannot read '{path}' ({error.strerror}); {_AGAIN}.") from error
        if not whole:
            raise BundleError(f"'{path}' was altered or cut short; {_AGAIN}.")
    return folder, manifest


def _parse(path: Path) -> CoreMLManifest:
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read '{path}' ({error.strerror}); {_AGAIN}.") from error
    except ValueError as error:
        raise BundleError(f"'{path}' is truncated or not JSON ({error}); {_AGAIN}.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"'{path}' has schema_version {version}, this sige_deploy reads {SCHEMA_VERSION}; {_AGAIN}."
        )
    try:
        return CoreMLManifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"'{path}' is not valid at {where}: {first['msg']}; {_AGAIN}.") from None
