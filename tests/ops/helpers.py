"""Tables by brute force, one-node models, and the tolerance that docs/ops.md asks of every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import settings
from hypothesis import strategies as st

from sige_deploy import ops
from sige_deploy.ops.activation import GATES

TOLERANCE = {"float32": 2e-5, "float16": 5e-3}
PROFILE = settings(max_examples=150, derandomize=True, deadline=None, database=None)

DTYPES = st.sampled_from([np.float32, np.float16])
ACTIVATION = st.sampled_from(ops.ACTIVATIONS)
GATE = st.sampled_from(GATES)
OWN_ROWS = st.sampled_from([False, False, True])
"""Whether a Gather or Conv has no table."""


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Passes if |actual - expected| <= tolerance * max(1, max |expected|)."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if not expected.size:
        return
    expected64, actual64 = expected.astype(np.float64), actual.astype(np.float64)
    bound = TOLERANCE[expected.dtype.name] * max(1.0, np.abs(expected64).max())
    assert np.abs(actual64 - expected64).max() <= bound


@dataclass(frozen=True)
class Window:
    """A k x k window over an image of height x width, enlarged by `up` (nearest) in front of it."""

    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    pad: int = 1
    up: int = 1

    @property
    def out_height(self) -> int:
        return (
            self.height * self.up + 2 * self.pad - self.dilation * (self.kernel[0] - 1) - 1
        ) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (
            self.width * self.up + 2 * self.pad - self.dilation * (self.kernel[1] - 1) - 1
        ) // self.stride + 1

    def tables(self, active: Iterable[int], targets: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """halo int32 [Q] and table int32 [R, K] for active source pixels and target pixels."""
        fresh = {pixel: row for row, pixel in enumerate(active)}
        halo: dict[int, int] = {}
        table = []
        for target in targets:
            y, x = divmod(int(target), self.out_width)
            for ky in range(self.kernel[0]):
                for kx in range(self.kernel[1]):
                    sy = y * self.stride + ky * self.dilation - self.pad
                    sx = x * self.stride + kx * self.dilation - self.pad
                    if not (0 <= sy < self.height * self.up and 0 <= sx < self.width * self.up):
                        table.append(-1)
                        continue
                    pixel = (sy // self.up) * self.width + sx // self.up
                    if pixel in fresh:
                        table.append(fresh[pixel])
                    else:
                        table.append(len(fresh) + halo.setdefault(pixel, len(halo)))
        taps = self.kernel[0] * self.kernel[1]
        return np.array(list(halo), np.int32), np.array(table, np.int32).reshape(-1, taps)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Windows with at least one output pixel."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 2), (1, 3), (3, 2)]))
    window = Window(
        height=draw(st.integers(1, 6)),
        width=draw(st.integers(1, 6)),
        kernel=kernel,
        stride=draw(st.integers(1, 2)),
        dilation=draw(st.integers(1, 2)),
        pad=draw(st.integers(0, 2)),
        up=draw(st.integers(1, 2)),
    )
    if window.out_height < 1 or window.out_width < 1:
        window = Window(window.height, window.width, kernel, pad=2)
    return window


@st.composite
def pixels(draw: st.DrawFn, count: int) -> np.ndarray:
    """Ascending pixels out of `count`: none, one, all, some, or some with the last one repeated (bucket)."""
    kind = draw(st.sampled_from(["none", "one", "all", "some", "bucket"]))
    if kind == "none":
        chosen = []
    elif kind == "one":
        chosen = [draw(st.integers(0, count - 1))]
    elif kind == "all":
        chosen = list(range(count))
    else:
        chosen = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
        if kind == "bucket":
            chosen += [chosen[-1]] * draw(st.integers(1, 3))
    return np.array(chosen, np.int32)


def random(seed: int, dtype: type, *shape: int) -> np.ndarray:
    """Normally distributed values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def widened(
    inputs: Mapping[str, np.ndarray | None], heads: int, together: bool = False, seed: int = 0
) -> tuple[dict[str, np.ndarray | None], dict[str, int]]:
    """Attention's inputs as parts of wider ones, other channels around them, and the attributes that say so.

    `together` puts q, k and v side by side into one array.
    """
    rng = np.random.default_rng(seed)
    wide = dict(inputs)
    attributes = {
        "dk": inputs["k_base"].shape[2] // heads,
        "dv": inputs["v_base"].shape[2] // heads,
    }

    def put(names: list[str]) -> None:
        parts: list[np.ndarray] = []
        shape, dtype = inputs[names[0]].shape[:2], inputs[names[0]].dtype
        for name in names:
            parts.append(rng.standard_normal((*shape, rng.integers(0, 9))).astype(dtype))
            attributes[f"{name}_offset"] = sum(part.shape[2] for part in parts)
            parts.append(inputs[name])
        parts.append(rng.standard_normal((*shape, rng.integers(0, 9))).astype(dtype))
        wide.update(dict.fromkeys(names, np.concatenate(parts, axis=2)))

    given = [name for name in ("q", "k", "v") if inputs[name] is not None]
    for names in [given] if together else [[name] for name in given]:
        put(names)
    put(["k_base"])
    put(["v_base"])
    return wide, attributes


def model_of(
    op_type: str,
    inputs: Mapping[str, np.ndarray | None],
    attributes: Mapping[str, str | int | float] | None = None,
    initializers: Iterable[str] = ("weight", "bias"),
) -> ir.Model:
    """A model of one node and its function; counts of rows, halo and targets are symbolic. None: left out."""
    values: dict[str, ir.Value] = {}
    weights = []
    given = {name: array for name, array in inputs.items() if array is not None}
    for name, array in given.items():
        weight = name in initializers
        symbolic = {"rows": 1, "rows_2": 1, "q": 1, "k": 1, "v": 1, "residual": 1, "multiplier": 1}
        symbolic |= {"halo": 0, "table": 0, "active": 0}
        dims: list[int | str] = list(array.shape)
        if name in symbolic:
            dims[symbolic[name]] = "halo" if name == "halo" else f"rows_{name}"
        values[name] = ir.Value(
            name=name,
            shape=ir.Shape(dims),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.Tensor(array, name=name) if weight else None,
        )
        if weight:
            weights.append(values[name])
    node = ir.node(
        op_type,
        [values.get(name) for name in ops.SIGNATURES[op_type].inputs],
        attributes,
        domain=ops.DOMAIN,
    )
    function = ops.function_for(node)
    node.overload = function.overload
    output = node.outputs[0]
    output.name = "output"
    dtype = next(array.dtype for name, array in given.items() if name in ("rows", "q"))
    output.type = ir.TensorType(ir.DataType.from_numpy(dtype))
    graph = ir.Graph(
        [value for value in values.values() if value not in weights],
        [output],
        nodes=[node],
        initializers=weights,
        opset_imports={"": ops.OPSET, ops.DOMAIN: ops.VERSION},
        name="one_node",
    )
    return ir.Model(graph, ir_version=10, functions=[function])


def session_of(model: ir.Model, **entries: str) -> onnxruntime.InferenceSession:
    """A plain CPU session, one thread, nothing registered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in entries.items():
        setattr(options, key, value)
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_function(
    op_type: str,
    inputs: Mapping[str, np.ndarray | None],
    attributes: Mapping[str, str | int | float] | None = None,
) -> np.ndarray:
    """What the op's function body computes in ONNX Runtime."""
    session = session_of(model_of(op_type, inputs, attributes))
    feeds = {value.name: inputs[value.name] for value in session.get_inputs()}
    return session.run(None, feeds)[0]


def optimized_ops(model: ir.Model, path: str) -> list[str]:
    """Op types that ONNX Runtime is left with after inlining and optimising."""
    session_of(model, optimized_model_filepath=path)
    return [node.op_type for node in onnx.load(path).graph.node]


def gather_inputs(
    data: st.DataObject, window: Window, batch: int, width: int, phases: int, dtype: type = np.float32
) -> dict[str, np.ndarray | None]:
    """Inputs of one Gather over random pixels; some of those with one phase have no table.

    width: channels of a phase.
    """
    channels, source = phases * width, window.height * window.width
    active = data.draw(pixels(source))
    halo, table = window.tables(active, data.draw(pixels(window.out_height * window.out_width)))
    if phases > 1:
        phase = np.random.default_rng(5).integers(0, phases, table.shape)
        table = np.where(table < 0, -1, table * phases + phase).astype(np.int32)
    own = phases == 1 and data.draw(OWN_ROWS, label="own rows")
    inputs: dict[str, np.ndarray | None] = {
        "rows": random(1, dtype, batch, active.size, channels),
        "base": None if own else random(2, dtype, batch, source, channels),
        "halo": None if own else halo,
        "table": None if own else table,
    }
    for seed, name in ((3, "scale"), (4, "shift")):
        if data.draw(st.booleans(), label=name):
            inputs[name] = random(seed, dtype, data.draw(st.sampled_from([1, batch])), 1, channels)
    return inputs if phases > 1 else two_sources(inputs, data.draw(st.integers(0, channels - 1), label="two"))


def conv_inputs(
    data: st.DataObject, window: Window, batch: int, grouping: tuple[int, int, int], dtype: type = np.float32
) -> dict[str, np.ndarray | None]:
    """Inputs of one Conv over random pixels, each optional one drawn or not; some have no table.

    grouping: groups, input channels per group, output channels in all.
    """
    group, per_group, outputs = grouping
    channels, source = group * per_group, window.height * window.width
    active = data.draw(pixels(source))
    halo, table = window.tables(active, data.draw(pixels(window.out_height * window.out_width)))
    own = data.draw(OWN_ROWS, label="own rows")
    targets, taps = (active.size, 1) if own else table.shape
    shapes = {
        "bias": (outputs,),
        "scale": (data.draw(st.sampled_from([1, batch])), 1, channels),
        "shift": (data.draw(st.sampled_from([1, batch])), 1, channels),
        "embedding": (data.draw(st.sampled_from([1, batch])), 1, outputs),
        "residual": (batch, targets, outputs),
        "multiplier": (batch, targets, outputs),
    }
    inputs: dict[str, np.ndarray | None] = {
        "rows": random(1, dtype, batch, active.size, channels),
        "base": None if own else random(2, dtype, batch, source, channels),
        "halo": None if own else halo,
        "table": None if own else table,
        "weight": random(3, dtype, taps, per_group, outputs),
    }
    for seed, (name, shape) in enumerate(shapes.items(), 4):
        if data.draw(st.booleans(), label=name):
            inputs[name] = random(seed, dtype, *shape)
    return two_sources(inputs, data.draw(st.integers(0, channels - 1), label="two"))


def gated_inputs(
    data: st.DataObject, window: Window, batch: int, channels: int, outputs: int, dtype: type = np.float32
) -> dict[str, np.ndarray | None]:
    """Those of conv_inputs for one group, with weight and bias of twice as many columns and no embedding."""
    inputs = conv_inputs(data, window, batch, (1, channels, outputs), dtype)
    inputs.pop("embedding", None)
    for seed, name in ((10, "weight"), (11, "bias")):
        array = inputs.get(name)
        if array is not None:
            inputs[name] = np.concatenate([array, random(seed, dtype, *array.shape)], axis=-1)
    return inputs


def linear_inputs(
    data: st.DataObject, gated: bool, channels: int, outputs: int, dtype: type = np.float32
) -> dict[str, np.ndarray | None]:
    """Inputs of a Conv without a table, affine and second source, whose rows have a mean of 0 or 3 and whose
    weight, of twice as many columns if gated, is centred as the exporter does it, or not."""
    batch, rows, columns = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 9)), outputs * (1 + gated)
    mean = data.draw(st.sampled_from([0.0, 3.0]), label="mean")
    weight = random(3, np.float64, 1, channels, columns) * channels**-0.5
    if mean or data.draw(st.booleans(), label="centred"):
        weight -= weight.mean(axis=1, keepdims=True)
    inputs: dict[str, np.ndarray | None] = dict.fromkeys(("base", "halo", "table"))
    inputs["rows"] = (random(1, np.float64, batch, rows, channels) + mean).astype(dtype)
    inputs["weight"] = weight.astype(dtype)
    shapes: dict[str, tuple[int, ...]] = {"bias": (columns,)}
    shapes |= dict.fromkeys(("residual", "multiplier"), (batch, rows, outputs))
    if not gated:
        shapes["embedding"] = (data.draw(st.sampled_from([1, batch])), 1, outputs)
    for seed, (name, shape) in enumerate(shapes.items(), 4):
        if data.draw(st.booleans(), label=name):
            inputs[name] = random(seed, dtype, *shape)
    return inputs


def channel_groups(
    data: st.DataObject, kind: str, depthwise: Sequence[int], outputs: Sequence[int]
) -> tuple[int, int, int]:
    """Groups, input channels per group and output channels in all of a Conv that is "plain", "grouped",
    "depthwise" or "depthwise x2". depthwise: counts of channels to draw from; outputs: of a group."""
    if kind.startswith("depthwise"):
        group = data.draw(st.sampled_from(depthwise))
        return group, 1, group * (2 if kind.endswith("x2") else 1)
    group = 1 if kind == "plain" else data.draw(st.integers(2, 4))
    return group, data.draw(st.sampled_from([1, 3, 8, 19])), group * data.draw(st.sampled_from(outputs))


def attention_inputs(
    dtype: type, batch: int, count: int, active: np.ndarray, key_width: int, value_width: int
) -> dict[str, np.ndarray | None]:
    """Inputs of one Attention with fresh rows of the active pixels out of `count`."""

    def image(seed: int, width: int) -> np.ndarray:
        return random(seed, dtype, batch, count, width)

    return {
        "q": np.ascontiguousarray(image(0, key_width)[:, active]),
        "k": np.ascontiguousarray(image(1, key_width)[:, active]),
        "v": np.ascontiguousarray(image(2, value_width)[:, active]),
        "k_base": image(3, key_width),
        "v_base": image(4, value_width),
        "active": active,
    }


def two_sources(inputs: Mapping[str, np.ndarray | None], channels: int) -> dict[str, np.ndarray | None]:
    """The same inputs, where the source's last `channels` channels are a second one; 0: one source."""
    result = dict(inputs)
    for name in ("rows", "base"):
        whole = inputs.get(name)
        if channels and whole is not None:
            parts = np.split(whole, [whole.shape[2] - channels], axis=2)
            result[name], result[f"{name}_2"] = (part.copy() for part in parts)  # aligned, also where one row
    return result
