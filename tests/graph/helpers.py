"""Tiny ONNX networks, and the laws that every exported edit obeys."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime

import sige_deploy as sige
from sige_deploy.geometry import Level
from sige_deploy.manifest import InputSpec, OutputSpec
from sige_deploy.masks import level_masks, resample_mask

Arrays = dict[str, np.ndarray]
IMAGE = "float[1,4,12,10] x"


def network(
    body: str,
    inputs: str = IMAGE,
    outputs: str = "float y",
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 23,
    functions: str = "",
) -> onnx.ModelProto:
    """A model of ONNX text; ``weights`` become initializers by their names."""
    domains = ', "test": 1' if functions or "test." in body else ""
    text = (
        f'<ir_version: {11 if opset >= 23 else 8}, opset_import: ["": {opset}{domains}]>\n'
        f"net ({inputs}) => ({outputs}) {{ {body} }}\n{functions}"
    )
    model = onnx.parser.parse_model(text)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # text without a shape says scalar
    for name, array in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return model


def weight(*shape: int, seed: int = 7, dtype: type = np.float32) -> np.ndarray:
    """Normal values scaled as a layer's weights are."""
    fan_in = int(np.prod(shape[1:])) or 1
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(fan_in)).astype(dtype)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def values(shape: Sequence[int], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Random values of a dtype: normal, or small non-negative integers."""
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 4, size=shape).astype(dtype)


@dataclass
class Laws:
    """One exported network with a recorded image, an edit of it and the network itself to compare with."""

    model: onnx.ModelProto
    spatial: Sequence[str] = ("x",)
    config: sige.SparseConfig = field(default_factory=lambda: sige.SparseConfig(dense_above=1.0))
    seed: int = 0
    tolerance: float = 1e-5
    positive: bool = False
    free: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.recorded = self.some_inputs()
        fresh = self.some_inputs()
        self.edited = {n: fresh[n] if n in self.spatial else a for n, a in self.recorded.items()} | dict(
            self.free
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = ["CPUExecutionProvider"]
        self.network = onnxruntime.InferenceSession(
            self.model.SerializeToString(), options, providers=providers
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            onnx.save(self.model, path / "net.onnx")
            sige.export(path / "net.onnx", self.recorded, path / "bundle", list(self.spatial), self.config)
            self.session = sige.open(path / "bundle", threads=1)
            self.manifest = self.session.bundle.manifest
            self.levels = self.session.bundle.levels()
            self.geometries = {g.id: g for g in self.session.bundle.geometries()}
            self.policy = self.session.bundle.policy()
            self.record = self.session.record(**self.recorded)
            self.mask = self.some_mask()
            self.session.edit(**self.recorded, mask=self.mask)  # loads the edit graph before the folder goes

    def some_inputs(self) -> Arrays:
        inputs = {}
        for value in self.model.graph.input:
            tensor = value.type.tensor_type
            shape = [d.dim_value for d in tensor.shape.dim]
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            array = values(shape, dtype, self.rng)
            inputs[value.name] = np.abs(array) + dtype.type(0.1) if self.positive else array
        return inputs

    def some_mask(self) -> np.ndarray:
        """A blob of the first spatial input's size with a few lone pixels, never empty or full."""
        height, width = self.recorded[self.spatial[0]].shape[-2:]
        mask = self.rng.random((height, width)) < 0.05
        mask[
            height // 3 : height // 3 + max(1, height // 4), width // 2 : width // 2 + max(1, width // 4)
        ] = True
        return mask

    # ---- what the laws speak of ----------------------------------------------------------------------------

    def islands(self) -> list[str]:
        return [island.op for island in self.manifest.islands]

    def run(self, inputs: Arrays) -> Arrays:
        """The network itself."""
        names = [o.name for o in self.network.get_outputs()]
        return dict(zip(names, self.network.run(names, inputs)))

    def active(self, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The mask of every level, bool [H, W], made by sige_deploy.masks."""
        given = self.mask if mask is None else mask
        sizes = [self.recorded[name].shape[-2:] for name in self.spatial]
        each = [resample_mask(given, size, self.policy.threshold) for size in sizes]
        return level_masks(each, self.levels, self.geometries, self.policy)

    def mixed(self, mask: np.ndarray | None = None) -> Arrays:
        """The edited inputs where their pixels are active, the recorded ones elsewhere."""
        active = self.active(mask)
        result = dict(self.edited)
        for spec in self.manifest.inputs:
            if spec.role == "spatial":
                chosen = active[spec.level or ""]
                result[spec.name] = np.where(chosen, self.edited[spec.name], self.recorded[spec.name])
        return result

    def output(self, name: str) -> OutputSpec:
        return next(o for o in self.manifest.outputs if o.name == name)

    def input(self, name: str) -> InputSpec:
        return next(i for i in self.manifest.inputs if i.name == name)

    # ---- the laws ------------------------------------------------------------------------------------------

    def nothing_changes(self) -> None:
        """Recording is running the network; the recorded input as edit gives the record, whatever the
        mask."""
        expected = self.run(self.recorded)
        again = self.session.edit(**self.recorded, mask=self.mask)
        assert self.session.report.path == "sparse"
        for name, array in expected.items():
            self._close(self.record[name], array, f"record of {name}")
            self._close(again[name], self.record[name], f"unchanged {name}")

    def edit_is_mixed(self) -> None:
        """One op behind the input: active pixels are those of the mixed input, the others are recorded."""
        edit = self.session.edit(**self.edited, mask=self.mask)
        assert self.session.report.path == "sparse"
        self._is_mixed(edit, self.record, self.mixed(), self.mask)

    def everything_is_dense(self) -> None:
        """With all pixels active the edit is the network on the edited input."""
        edit = self.session.edit(**self.edited, mask=np.ones_like(self.mask))
        assert self.session.report.path == "sparse"
        for name, array in self.run(self.edited).items():
            self._close(edit[name], array, f"all of {name}")

    def commit_is_base(self, mixed: bool) -> None:
        """After a commit, editing the same pixels again changes nothing, and another edit starts from
        there."""
        first = self.session.edit(**self.edited, mask=self.mask)
        self.session.commit()
        again = self.session.edit(**self.edited, mask=self.mask)
        for name, array in first.items():
            self._close(again[name], array, f"committed {name}")
        if mixed:
            mask = np.roll(self.mask, (2, 1), (0, 1))
            base, inputs = self.mixed(), self.some_inputs()
            inputs = {n: inputs[n] if n in self.spatial else a for n, a in self.edited.items()}
            edit = self.session.edit(**inputs, mask=mask)
            active = {s.name: self.active(mask)[s.level or ""] for s in self.manifest.spatial()}
            now = {n: np.where(active[n], a, base[n]) if n in active else a for n, a in inputs.items()}
            self._is_mixed(edit, first, now, mask)
        self.session.record(**self.recorded)

    def _is_mixed(self, edit: Arrays, before: Arrays, inputs: Arrays, mask: np.ndarray) -> None:
        dense, active = self.run(inputs), self.active(mask)
        for spec in self.manifest.outputs:
            fresh = dense[spec.name]
            if spec.level is not None:
                chosen = on_output(spec, active[spec.level])
                assert chosen.shape == fresh.shape
                fresh = np.where(chosen, fresh, before[spec.name])
            self._close(edit[spec.name], fresh, f"edited {spec.name}")

    def _close(self, got: np.ndarray, expected: np.ndarray, what: str) -> None:
        assert got.shape == expected.shape and got.dtype == expected.dtype, what
        if got.dtype.kind != "f":
            np.testing.assert_array_equal(got, expected, what)
            return
        finite = expected[np.isfinite(expected)].astype(np.float64)
        scale = max(1.0, float(np.abs(finite).max(initial=0.0)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=self.tolerance * scale, err_msg=what)


def on_output(spec: OutputSpec, active: np.ndarray) -> np.ndarray:
    """A level's mask at every element of a spatial output."""
    assert spec.layout is not None
    atoms = [atom for dim in spec.layout for atom in dim]
    sizes = {"Y": active.shape[0], "X": active.shape[1]}
    kinds = [kind for kind, _ in atoms]
    grid = active.reshape([n for kind, n in sizes.items() if kind in kinds])
    if kinds.index("Y") > kinds.index("X") if {"Y", "X"} <= set(kinds) else False:
        grid = grid.T
    shaped = grid.reshape([sizes.get(kind, 1) for kind in kinds])
    return np.broadcast_to(shaped, [n for _, n in atoms]).reshape(spec.shape)


def check(
    model: onnx.ModelProto,
    *,
    islands: Sequence[str] | None = (),
    mixed: bool = True,
    full: bool = True,
    commit: bool = True,
    **options: object,
) -> Laws:
    """Export the network, expect exactly these islands, check the laws.

    mixed: whether the op under test reads the input directly. full: whether all pixels active is dense
    (not with recorded statistics).
    """
    laws = Laws(model, **options)  # type: ignore[arg-type]
    assert islands is None or laws.islands() == list(islands), [
        (i.op, i.reason) for i in laws.manifest.islands
    ]
    laws.nothing_changes()
    if mixed:
        laws.edit_is_mixed()
    if full:
        laws.everything_is_dense()
    if commit:
        laws.commit_is_base(mixed)
    return laws


def level_of(laws: Laws, name: str) -> Level:
    return next(level for level in laws.levels if level.id == laws.output(name).level)
