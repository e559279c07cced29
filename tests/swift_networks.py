"""Bundles without graphs, for code that reads manifests and geometries alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sige_deploy import files
from sige_deploy.bundle import GEOMETRY, REQUIRED
from sige_deploy.geometry import (
    AxisTaps,
    Geometry,
    Level,
    depth_to_space,
    geometries_to_tensors,
    nearest,
    pad,
    resampling,
    transposed,
    window,
)
from sige_deploy.manifest import (
    FileSpec,
    GeometrySpec,
    InputSpec,
    LevelSpec,
    Manifest,
    OutputSpec,
    PlannerSpec,
    PolicySpec,
)
from sige_deploy.masks import MaskPolicy

H, W = 24, 32


@dataclass(frozen=True)
class Network:
    """A manifest with its geometries."""

    manifest: Manifest
    geometries: list[Geometry]

    def levels(self) -> list[Level]:
        return [Level(x.id, x.height, x.width, x.geometry) for x in self.manifest.levels]

    def policy(self) -> MaskPolicy:
        spec = self.manifest.policy
        return MaskPolicy(
            eps=spec.eps,
            dilate=spec.dilate,
            threshold=spec.threshold,
            level_dilate={x.id: x.dilation for x in self.manifest.levels},
            granularity={x.id: x.granularity for x in self.manifest.levels},
        )

    def write(self, folder: Path) -> Path:
        """The folder as a device has it: the manifest and the tables, without graphs."""
        folder.mkdir()
        save_file(geometries_to_tensors(self.geometries), folder / GEOMETRY)
        listed = {name: FileSpec(sha256=hashlib.sha256(b"").hexdigest(), bytes=0) for name in REQUIRED}
        file = folder / GEOMETRY
        listed[GEOMETRY] = FileSpec(sha256=files.sha256(file), bytes=file.stat().st_size)
        text = self.manifest.model_copy(update={"files": listed}).model_dump_json(indent=1)
        (folder / "manifest.json").write_text(text)
        return folder


def network(
    dtype: str = "float32",
    eps: float = 0.0,
    dilate: int = 1,
    dilation: int = 1,
    granularity: int = 1,
    threshold: float = 0.3,
    counted: bool = True,
    axes: Sequence[str] = ("N", "C", "Y", "X"),
) -> Network:
    """Levels from a third of the image to twice its size, read through every kind of geometry."""
    sizes = {
        "top": (H, W),
        "half": (H // 2, W // 2),
        "odd": (9, 11),
        "twice": (2 * H, 2 * W),
        "pad": (H + 2, W + 2),
    }
    by = {"N": 1, "C": 3, "Y": H, "X": W}
    levels = [
        LevelSpec(
            id=id_, height=h, width=w, geometry="reflect" if id_ == "pad" else None, dilation=dilation,
            granularity=granularity if id_ != "top" else 1, threshold=threshold,
            macs=(1 + i) * 1000 if counted else 0,
        )
        for i, (id_, (h, w)) in enumerate(sizes.items())
    ]  # fmt: skip
    rng = np.random.default_rng(3)

    def weighted(n_in: int, n_out: int) -> AxisTaps:
        return resampling(
            rng.integers(-1, n_in, (n_out, 3)), rng.standard_normal((n_out, 3)).astype(np.float32), n_in
        )

    geometries = [
        Geometry("conv3", "top", "top", window(H, 3, pad=(1, 1)), window(W, 3, pad=(1, 1))),
        Geometry(
            "wide", "top", "top", window(H, 3, dilation=2, pad=(2, 2)), window(W, 5, pad=(2, 2), mode="wrap")
        ),
        Geometry("reflect", "top", "pad", pad(H, 1, 1, "reflect"), pad(W, 1, 1, "reflect")),
        Geometry("valid", "pad", "top", window(H + 2, 3), window(W + 2, 3)),
        Geometry("down", "top", "half", window(H, 3, 2, pad=(1, 1)), window(W, 3, 2, pad=(1, 1))),
        Geometry("up", "half", "top", nearest(H // 2, 2), nearest(W // 2, 2)),
        Geometry("shuffle", "half", "top", depth_to_space(H // 2, 2), depth_to_space(W // 2, 2)),
        Geometry("row", "half", "top", depth_to_space(H // 2, 2), nearest(W // 2, 2)),
        Geometry(
            "transposed", "top", "twice", transposed(H, 4, 2, pad=(1, 1)), transposed(W, 4, 2, pad=(1, 1))
        ),
        Geometry("resized", "top", "odd", weighted(H, 9), weighted(W, 11)),
        Geometry("mixed", "odd", "half", weighted(9, H // 2), window(11, 1, pad=(0, 5))),
    ]  # fmt: skip
    manifest = Manifest(
        name="drawn",
        inputs=[
            InputSpec(
                name="image", shape=[by[a] for a in axes], dtype=dtype, role="spatial", level="top",
                axes=list(axes),
            ),
            InputSpec(
                name="small", shape=[H // 2, W // 2], dtype="uint8", role="spatial", level="half",
                axes=["Y", "X"],
            ),
            InputSpec(name="gain", shape=[2], dtype="float32", role="pinned", reason="it is folded"),
            InputSpec(name="offset", shape=[], dtype="float64", role="free"),
        ],
        outputs=[
            OutputSpec(
                name="picture", shape=[1, 6, H, W], dtype="float32", level="top", order=[1, 0],
                layout=[[], [("C", 3), ("C", 2)], [("Y", H)], [("X", W)]],
            ),
            OutputSpec(
                name="tokens", shape=[2, 12 * 16, 4], dtype="float16", level="half", order=[0],
                layout=[[("N", 2)], [("Y", 6), ("X", 4), ("Y", 2), ("X", 4)], [("C", 4)]],
            ),
            OutputSpec(name="score", shape=[1], dtype="float32"),
        ],
        levels=levels,
        geometries=[GeometrySpec(id=g.id, source=g.source, target=g.target) for g in geometries],
        policy=PolicySpec(eps=eps, dilate=dilate, threshold=threshold),
        planner=PlannerSpec(gpu_dense_above=0.4),
        precision="float32",
        macs=10,
        parameters=10,
    )  # fmt: skip
    return Network(manifest, geometries)


NETWORKS: dict[str, Network] = {
    "plain": network(),
    "halves": network("float16", eps=0.01, dilate=0, dilation=2),
    "bytes": network("uint8", eps=3, granularity=4, threshold=0.7, axes=("Y", "X", "C")),
    "doubles": network("float64", granularity=3, dilate=3, dilation=0, counted=False, axes=("C", "X", "Y")),
    "integers": network("int32", eps=1.5, axes=("N", "Y", "X")),
}
