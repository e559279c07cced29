"""The bundle's manifest: what a bundle holds, as a schema that refuses anything it does not know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sige_deploy import files

SCHEMA_VERSION: Final = 1
OP_SET_VERSION: Final = 1

#: Axis sizes of a dense array that a rows array must know: batch, row, column, channel.
Kind = Literal["N", "Y", "X", "C"]
Size = Annotated[int, Field(ge=1)]
Shape = list[Annotated[int, Field(ge=0)]]
DType = Literal[
    "float16", "float32", "float64", "bool",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
]  # fmt: skip
#: (kind, size): one factor of a dense axis.
Atom = tuple[Kind, Size]


class Spec(BaseModel):
    """Base of all manifest parts: unknown fields are refused, nothing changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileSpec(Spec):
    """One file of the bundle: SHA-256 of its contents (hex) and its size in bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, path: Path) -> FileSpec:
        """Of a file that was just written: it is on the disk before it is listed. Raises OSError."""
        files.sync_file(path)
        return cls(sha256=files.sha256(path), bytes=path.stat().st_size)


class InputSpec(Spec):
    """A model input. `spatial`: the edited image(s); `pinned`: must stay as recorded (`reason` says why);
    `free`: may change with every edit. `axes` names each axis of a spatial input,
    e.g. ["N", "C", "Y", "X"]."""

    name: str
    shape: Shape
    dtype: DType
    role: Literal["spatial", "pinned", "free"]
    level: str | None = None
    axes: list[Kind] | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _spatial_is_complete(self) -> InputSpec:
        if self.role != "spatial":
            return self
        if self.level is None or self.axes is None:
            raise ValueError(f"spatial input '{self.name}' lacks its level or axes")
        if len(self.axes) != len(self.shape) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes {self.axes} of input '{self.name}' do not fit its shape {self.shape}")
        if not {"Y", "X"} <= set(self.axes):
            raise ValueError(f"axes {self.axes} of spatial input '{self.name}' lack Y or X")
        return self


class OutputSpec(Spec):
    """A model output. Spatial (level set): the edit graph returns its rows [B, P, C] as `rows.<name>`.

    `layout` gives the atoms of each dense axis in order, outer first (an axis of size 1 has none); `order`
    gives the rows' channel axis as indices into the list of C atoms in layout reading order, slowest first.
    """

    name: str
    shape: Shape
    dtype: DType
    level: str | None = None
    layout: list[list[Atom]] | None = None
    order: list[Annotated[int, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _spatial_is_complete(self) -> OutputSpec:
        if self.level is None:
            return self
        if self.layout is None or self.order is None:
            raise ValueError(f"spatial output '{self.name}' lacks its layout or order")
        sizes = [_product(size for _, size in axis) for axis in self.layout]
        if sizes != self.shape:
            raise ValueError(f"layout of output '{self.name}' gives shape {sizes}, not {self.shape}")
        channels = sum(kind == "C" for axis in self.layout for kind, _ in axis)
        if sorted(self.order) != list(range(channels)):
            raise ValueError(
                f"order {self.order} of output '{self.name}' is no order of its {channels} C atoms"
            )
        return self

    def pixels(self, kind: Kind) -> int:
        """Product of the sizes of all atoms of one kind."""
        return _product(size for axis in self.layout or [] for k, size in axis if k == kind)

    @property
    def rows(self) -> str:
        """Name of the edit graph's output for this model output."""
        return self.name if self.level is None else f"rows.{self.name}"


class LevelSpec(Spec):
    """A spatial resolution in pixels. Its mask is resampled from the inputs' mask (threshold, then dilation
    in pixels), or follows from `geometry`; then it grows to whole granules.
    `macs`: dense multiply-adds spent here."""

    id: str
    height: Size
    width: Size
    geometry: str | None = None
    granularity: Size = 1
    dilation: Annotated[int, Field(ge=0)] = 1
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    macs: Annotated[int, Field(ge=0)] = 0


class GeometrySpec(Spec):
    """A neighbourhood that level `target` reads at level `source`; its tables are in geometry.safetensors."""

    id: str
    source: str
    target: str


class CacheSpec(Spec):
    """An array that record keeps for edits. `base`: [B, H*W, C] of a level; `static`: anything else.
    `rows`: the edit-graph output with its fresh rows [B, P, C], which commit writes at the level's active
    pixels (None: an edit never changes it); it may be a model output's, or another cache's. `rows_channels`,
    `rows_offset`: channels of `rows` where it has more than C, and the first that is the cache's.
    `reads`: the geometries through whose halos alone edits read it; None: it is read whole, or not known."""

    name: str
    kind: Literal["base", "static"]
    shape: Shape
    dtype: DType
    level: str | None = None
    rows: str | None = None
    rows_channels: Size | None = None
    rows_offset: Annotated[int, Field(ge=0)] = 0
    reads: list[str] | None = None


class PolicySpec(Spec):
    """How a mask becomes active pixels: |difference| > eps, dilated by `dilate` pixels at its own size."""

    eps: Annotated[float, Field(ge=0)] = 0.0
    dilate: Annotated[int, Field(ge=0)] = 1
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    statistics: Literal["recorded", "fresh"] = "recorded"


class PlannerSpec(Spec):
    """Edits whose active fraction of MACs is above `dense_above`, on a GPU `gpu_dense_above`, run dense."""

    dense_above: Annotated[float, Field(ge=0)] = 0.5
    gpu_dense_above: Annotated[float, Field(ge=0)] = 1.0
    calibrated: bool = False


class IslandSpec(Spec):
    """A node that the pass left dense, why, and the bytes that it moves per edit."""

    node: str
    op: str
    reason: str
    bytes: Annotated[int, Field(ge=0)] = 0


class RefusalSpec(Spec):
    """A rewrite that nearly applied, and why it did not."""

    node: str
    op: str
    reason: str


class Manifest(Spec):
    """Everything that a session must know about a bundle before it loads a graph.

    `precision`: the type of most weights. `launches`: nodes of the edit graph by op type that a device
    launches a kernel for.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    op_set_version: Literal[1] = OP_SET_VERSION
    name: str
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    levels: list[LevelSpec]
    geometries: list[GeometrySpec] = []
    caches: list[CacheSpec] = []
    policy: PolicySpec = PolicySpec()
    planner: PlannerSpec = PlannerSpec()
    islands: list[IslandSpec] = []
    refusals: list[RefusalSpec] = []
    precision: str
    launches: dict[str, Annotated[int, Field(ge=1)]] = {}
    macs: Annotated[int, Field(ge=0)]
    parameters: Annotated[int, Field(ge=0)]
    files: dict[str, FileSpec] = {}
    producer: dict[str, str] = {}

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileSpec]) -> dict[str, FileSpec]:
        for name in files:
            check_relative(name)
        return files

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Manifest:
        for what, names in (
            ("input", [i.name for i in self.inputs]),
            ("output", [o.name for o in self.outputs]),
            ("level", [level.id for level in self.levels]),
            ("geometry", [g.id for g in self.geometries]),
            ("cache", [c.name for c in self.caches]),
        ):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"{what} '{min(twice)}' is listed twice")
        sizes = {level.id: (level.height, level.width) for level in self.levels}
        geometries = {g.id: g for g in self.geometries}
        used = [(f"geometry '{g.id}'", end) for g in self.geometries for end in (g.source, g.target)]
        used += [(f"{kind} '{x.name}'", x.level) for kind, x in self._leveled() if x.level is not None]
        for who, level in used:
            if level not in sizes:
                raise ValueError(f"{who} names level '{level}', which is not listed")
        for entry in self.levels:
            if entry.geometry is not None and entry.geometry not in geometries:
                raise ValueError(f"level '{entry.id}' names geometry '{entry.geometry}', which is not listed")
            if entry.threshold != self.policy.threshold:
                raise ValueError(f"level '{entry.id}' has another threshold than the policy")
        if not any(i.role == "spatial" for i in self.inputs):
            raise ValueError("no input is spatial")
        for i in self.inputs:
            if i.role == "spatial" and i.axes and i.level:
                size = (i.shape[i.axes.index("Y")], i.shape[i.axes.index("X")])
                if size != sizes[i.level]:
                    raise ValueError(
                        f"input '{i.name}' of size {size} does not fit its level {sizes[i.level]}"
                    )
        for o in self.outputs:
            if o.level is not None and tuple(o.pixels(kind) for kind in ("Y", "X")) != sizes[o.level]:
                raise ValueError(f"layout of output '{o.name}' does not fit its level {sizes[o.level]}")
        for c in self.caches:
            if c.rows is not None and c.kind != "base":
                raise ValueError(f"static cache '{c.name}' cannot have rows")
            if c.kind == "base" and (
                c.level is None or len(c.shape) != 3 or c.shape[1] != _product(sizes[c.level])
            ):
                raise ValueError(f"base cache '{c.name}' is not [B, H*W, C] of a level")
            if (c.rows is None and c.rows_channels is not None) or (
                c.rows_channels is None and c.rows_offset
            ):
                raise ValueError(f"cache '{c.name}' names channels of no rows")
            if c.rows_channels is not None and c.rows_offset + c.shape[-1] > c.rows_channels:
                raise ValueError(f"cache '{c.name}' does not fit in {c.rows_channels} channels of its rows")
            for id_ in c.reads or []:
                if c.kind != "base" or id_ not in geometries or geometries[id_].source != c.level:
                    raise ValueError(f"cache '{c.name}' cannot be read through geometry '{id_}'")
        return self

    def _leveled(self) -> list[tuple[str, InputSpec | OutputSpec | CacheSpec]]:
        return [
            *(("input", i) for i in self.inputs),
            *(("output", o) for o in self.outputs),
            *(("cache", c) for c in self.caches),
        ]

    @property
    def bundle_id(self) -> str:
        """SHA-256 (hex) of the file list: two bundles with the same id hold the same files."""
        files = {name: spec.model_dump() for name, spec in self.files.items()}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def spatial(self) -> list[InputSpec]:
        """The spatial inputs, in order; the first one's size is the size of a given mask."""
        return [i for i in self.inputs if i.role == "spatial"]


def check_relative(name: str) -> None:
    """Refuse a file name that is not a plain relative POSIX path (ValueError with one sentence)."""
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or any(part in ("", ".", "..") for part in name.split("/"))
        or any(c in name for c in "\\:\0")
        or name == "manifest.json"
    ):
        raise ValueError(f"file name {name!r} is not a plain relative path inside the bundle")


def _product(values: Iterable[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
