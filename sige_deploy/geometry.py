"""Where a neighbourhood reads: separable taps from target pixels into source pixels.

A convolution, a pooling window, a resize, a pad or a pixel shuffle differ only in *which* source pixels a
target pixel reads. For everything supported here that choice is separable: the taps of target pixel (y, x)
are the product of the taps of y along the rows' axis and the taps of x along the columns' axis. An `AxisTaps`
holds one axis, a `Geometry` two of them between two levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import BundleError

PADDING = -1
MODES = ("zero", "reflect", "edge", "wrap")


@dataclass(frozen=True, eq=False)
class AxisTaps:
    """Taps along one axis.

    index: int32 [n_out, k], the source coordinate that each tap reads, or -1 (padding).
    source_size: number of source coordinates, n_in.
    weight: float32 [n_out, k] by which each tap is multiplied, or None (unweighted).
    phase: int32 [n_out] in 0..n_phases-1, or None: which block of the source's channels the target reads
        (depth to space).

    Arrays are stored read-only. Two AxisTaps are equal when they read the same. Raises ValueError when shapes
    or ranges do not fit together.
    """

    index: np.ndarray
    source_size: int
    weight: np.ndarray | None = None
    phase: np.ndarray | None = None
    n_phases: int = 1

    def __post_init__(self) -> None:
        for name, dtype in (("index", np.int32), ("weight", np.float32), ("phase", np.int32)):
            value = getattr(self, name)
            if value is not None:
                value = np.array(value, dtype=dtype, order="C")
                value.flags.writeable = False
                object.__setattr__(self, name, value)
        index, weight, phase = self.index, self.weight, self.phase
        if index.ndim != 2 or 0 in index.shape:
            raise ValueError(
                f"Taps need an index of shape [n_out, k] with both positive, got {list(index.shape)}."
            )
        if index.min() < PADDING or index.max() >= self.source_size:
            raise ValueError(
                f"Taps read coordinates {index.min()}..{index.max()} of a source of {self.source_size}."
            )
        if weight is not None and (weight.shape != index.shape or not np.isfinite(weight).all()):
            raise ValueError(f"Tap weights must be finite and of shape {list(index.shape)}.")
        if (phase is None) != (self.n_phases == 1):
            raise ValueError(
                f"Phases must be given exactly when there are several, got n_phases={self.n_phases}."
            )
        if phase is not None and (
            phase.shape != index.shape[:1] or phase.min() < 0 or phase.max() >= self.n_phases
        ):
            raise ValueError(f"Phases must be [{index.shape[0]}] values in 0..{self.n_phases - 1}.")

    @property
    def n_out(self) -> int:
        return self.index.shape[0]

    @property
    def k(self) -> int:
        return self.index.shape[1]

    def _key(self) -> tuple[object, ...]:
        arrays = tuple(None if a is None else a.tobytes() for a in (self.index, self.weight, self.phase))
        return (*arrays, self.index.shape, self.source_size, self.n_phases)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, AxisTaps) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class Geometry:
    """Taps of both axes, from the pixels of level `target` into those of level `source`.

    Tap order is row-major (y outer, x inner): tap k is tap k // kx of y and tap k % kx of x. The phase of a
    target pixel is y.phase * x.n_phases + x.phase, the weight of a tap is the product of the axes' weights.
    """

    id: str
    source: str
    target: str
    y: AxisTaps
    x: AxisTaps

    @property
    def kernel(self) -> tuple[int, int]:
        return self.y.k, self.x.k

    @property
    def taps(self) -> int:
        return self.y.k * self.x.k

    @property
    def phases(self) -> int:
        return self.y.n_phases * self.x.n_phases

    @property
    def weighted(self) -> bool:
        return self.y.weight is not None or self.x.weight is not None

    @property
    def source_shape(self) -> tuple[int, int]:
        return self.y.source_size, self.x.source_size

    @property
    def target_shape(self) -> tuple[int, int]:
        return self.y.n_out, self.x.n_out


@dataclass(frozen=True)
class Level:
    """A spatial resolution.

    geometry: None if its mask is resampled from the spatial inputs' masks; otherwise the id of the geometry
        that decides it: a pixel is active if any pixel that it reads is active at that geometry's source.
    """

    id: str
    height: int
    width: int
    geometry: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def pixels(self) -> int:
        return self.height * self.width


def window(
    n_in: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] = (0, 0),
    mode: str = "zero",
) -> AxisTaps:
    """Sliding window: output o, tap i reads source o*stride + i*dilation - pad[0].

    Outside the source: -1 ("zero"), mirrored without repeating the border ("reflect"), the border ("edge") or
    the other end ("wrap"). n_out = (n_in + pad[0] + pad[1] - dilation*(kernel - 1) - 1) // stride + 1, as
    torch and ONNX have it (ceil mode: enlarge pad[1]). Negative pads crop.
    """
    n_out = (n_in + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1
    if n_out < 1:
        raise ValueError(f"A window of {kernel} (dilation {dilation}) does not fit {n_in} padded by {pad}.")
    position = np.arange(n_out)[:, None] * stride + np.arange(kernel)[None, :] * dilation - pad[0]
    return AxisTaps(_outside(position, n_in, mode), n_in)


def transposed(
    n_in: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] = (0, 0),
    output_padding: int = 0,
) -> AxisTaps:
    """Transposed convolution: output o, tap i reads source s where s*stride + i*dilation - pad[0] == o.

    Where there is no such source: -1. Taps keep the order of the ConvTranspose weight: a Conv with this
    geometry uses that weight unflipped.
    n_out = (n_in - 1)*stride - pad[0] - pad[1] + dilation*(kernel - 1) + output_padding + 1.
    """
    n_out = (n_in - 1) * stride - pad[0] - pad[1] + dilation * (kernel - 1) + output_padding + 1
    if n_out < 1:
        raise ValueError(f"A transposed window of {kernel} over {n_in} has no output left after pads {pad}.")
    scaled = np.arange(n_out)[:, None] + pad[0] - np.arange(kernel)[None, :] * dilation
    source, rest = np.divmod(scaled, stride)
    return AxisTaps(np.where((rest == 0) & (source >= 0) & (source < n_in), source, PADDING), n_in)


def pad(n_in: int, before: int, after: int, mode: str = "zero") -> AxisTaps:
    """Padding alone, one tap; modes as in `window`. Negative amounts crop."""
    return window(n_in, 1, pad=(before, after), mode=mode)


def crop(n_in: int, start: int, n_out: int, step: int = 1) -> AxisTaps:
    """Slice: output o reads source start + o*step, which must be inside. A negative step flips."""
    position = start + np.arange(n_out)[:, None] * step
    if n_out < 1 or position.min() < 0 or position.max() >= n_in:
        raise ValueError(
            f"A slice of {n_out} from {start} by {step} leaves the {n_in} coordinates of its source."
        )
    return AxisTaps(position, n_in)


def nearest(n_in: int, scale: int) -> AxisTaps:
    """Nearest-neighbour enlargement by an integer: output o reads source o // scale."""
    return AxisTaps(np.arange(n_in * scale)[:, None] // scale, n_in)


def depth_to_space(n_in: int, r: int) -> AxisTaps:
    """Depth to space (pixel shuffle) by r: output o reads source o // r, channel phase o % r.

    The source's channels count as [phase y, phase x, C / r^2], phases slowest (ONNX mode DCR); for mode CRD
    (torch pixel_shuffle) the producer's channels have to be permuted accordingly.
    """
    output = np.arange(n_in * r)
    return AxisTaps(output[:, None] // r, n_in, phase=output % r if r > 1 else None, n_phases=r)


def resampling(index: np.ndarray, weight: np.ndarray | None, n_in: int) -> AxisTaps:
    """Any linear resampling (bilinear, bicubic, average pooling, ...): index and weight [n_out, k]."""
    return AxisTaps(index, n_in, weight)


def compose(outer: AxisTaps, inner: AxisTaps) -> AxisTaps:
    """Taps of `outer` reading the output of `inner`, expressed in the source of `inner`.

    Padding stays padding. `inner` must copy (one tap, no weights, no phases): an upsampling, a pad or a crop
    in front of a window.
    """
    if inner.k != 1 or inner.weight is not None or inner.phase is not None:
        raise ValueError("Only geometries of one unweighted tap without phases can be read through.")
    if outer.source_size != inner.n_out:
        raise ValueError(
            f"The outer geometry reads {outer.source_size} coordinates, the inner one has {inner.n_out}."
        )
    index = np.append(inner.index[:, 0], np.int32(PADDING))[outer.index]
    return AxisTaps(index, inner.source_size, outer.weight, outer.phase, outer.n_phases)


def geometries_to_tensors(geometries: Iterable[Geometry]) -> dict[str, np.ndarray]:
    """Tensors to store: "<id>.<axis>.index" and, where present, ".weight", ".phase"; ".shape" is int32
    [source_size, n_phases]; axis is "y" or "x"."""
    tensors: dict[str, np.ndarray] = {}
    for geometry in geometries:
        for axis, taps in (("y", geometry.y), ("x", geometry.x)):
            prefix = f"{geometry.id}.{axis}"
            tensors[f"{prefix}.index"] = taps.index
            tensors[f"{prefix}.shape"] = np.array([taps.source_size, taps.n_phases], np.int32)
            if taps.weight is not None:
                tensors[f"{prefix}.weight"] = taps.weight
            if taps.phase is not None:
                tensors[f"{prefix}.phase"] = taps.phase
    return tensors


def geometries_from_tensors(
    tensors: Mapping[str, np.ndarray], specs: Iterable[tuple[str, str, str]]
) -> list[Geometry]:
    """The inverse of `geometries_to_tensors`; `specs` are (id, source, target) in the order wanted.

    Raises BundleError when a tensor is missing or does not fit.
    """
    geometries = []
    for id_, source, target in specs:
        try:
            y, x = (_axis_from_tensors(tensors, f"{id_}.{axis}") for axis in "yx")
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError(f"Geometry {id_!r} is damaged ({error}); export the bundle again.") from error
        geometries.append(Geometry(id_, source, target, y, x))
    return geometries


def _axis_from_tensors(tensors: Mapping[str, np.ndarray], prefix: str) -> AxisTaps:
    for name, kind in (("index", "i"), ("shape", "i"), ("weight", "f"), ("phase", "i")):
        array = tensors.get(f"{prefix}.{name}")
        if array is not None and array.dtype.kind != kind:
            raise ValueError(f"{prefix}.{name} has type {array.dtype}")
    source_size, n_phases = (int(value) for value in tensors[f"{prefix}.shape"])
    weight, phase = tensors.get(f"{prefix}.weight"), tensors.get(f"{prefix}.phase")
    return AxisTaps(tensors[f"{prefix}.index"], source_size, weight, phase, n_phases)


def _outside(position: np.ndarray, n: int, mode: str) -> np.ndarray:
    if mode == "zero":
        return np.where((position >= 0) & (position < n), position, PADDING)
    if mode == "edge":
        return position.clip(0, n - 1)
    if mode == "wrap":
        return position % n
    if mode == "reflect":
        period = 2 * (n - 1)
        folded = position % max(period, 1)
        return np.minimum(folded, period - folded)
    raise ValueError(f"Padding mode {mode!r} is not one of {', '.join(MODES)}.")
