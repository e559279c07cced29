"""How far an edit is from the dense network on the same edited input, and which pixels it recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sige_deploy import masks, rows
from sige_deploy.bundle import Bundle
from sige_deploy.manifest import InputSpec, OutputSpec
from sige_deploy.runtimes.base import Runtime
from sige_deploy.session import Report, Session

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """One output of an edit against dense. Errors are absolute, in units of the output.

    max_error, mean_error: over all pixels. psnr, psnr_inside, psnr_outside: dB, over all, over the active and
    over the other pixels; infinite where nothing differs, None where there are no such pixels.
    """

    output: str
    max_error: float
    mean_error: float
    psnr: float
    psnr_inside: float | None
    psnr_outside: float | None


@dataclass(frozen=True)
class Comparison:
    """An edit and the dense network on one input.

    result, dense: outputs by name. edited: the edited pixels of each spatial input, bool [H, W] at its size.
    active: the recomputed pixels, bool [H, W] by level id (those that a sparse edit recomputes; after a dense
    edit or a reuse, those that a sparse one would have).
    """

    report: Report
    result: Arrays
    dense: Arrays
    edited: list[np.ndarray]
    active: dict[str, np.ndarray]
    differences: list[Difference]


def compare(
    session: Session,
    runtime: Runtime,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None = None,
) -> Comparison:
    """Edit, run dense, and compare.

    session: recorded with `original`. runtime: the engine under it. mask: as for `Session.edit`. Raises what
    these raise; afterwards the edit is the session's last one.
    """
    result = session.edit(mask=mask, **edited)
    report = session.report
    dense = runtime.dense(edited)
    bundle = session.bundle
    pixels = edited_masks(bundle, original, edited) if mask is None else given_masks(bundle, mask)
    active = active_masks(bundle, pixels)
    return Comparison(report, result, dense, pixels, active, differences(bundle, result, dense, active))


def edited_masks(
    bundle: Bundle, recorded: Mapping[str, np.ndarray], edited: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The edited pixels of each spatial input, bool [H, W] at its own size, as an edit without a mask finds
    them."""
    eps = bundle.manifest.policy.eps
    spatial = bundle.manifest.spatial()
    planes = [(rows.planes(s, edited[s.name]), rows.planes(s, recorded[s.name])) for s in spatial]
    return [masks.difference_mask(after, before, eps) for after, before in planes]


def given_masks(bundle: Bundle, mask: np.ndarray) -> list[np.ndarray]:
    """The same, as an edit with `mask` (bool [H, W] at the first spatial input's size) takes them."""
    threshold = bundle.manifest.policy.threshold
    return [masks.resample_mask(mask, image_size(s), threshold) for s in bundle.manifest.spatial()]


def active_masks(bundle: Bundle, edited: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The pixels that an edit recomputes, bool [H, W] by level id; `edited` as `edited_masks` gives them."""
    geometries = {g.id: g for g in bundle.geometries()}
    return masks.level_masks(edited, bundle.levels(), geometries, bundle.policy())


def differences(
    bundle: Bundle,
    result: Mapping[str, np.ndarray],
    dense: Mapping[str, np.ndarray],
    active: Mapping[str, np.ndarray],
) -> list[Difference]:
    """Every output of an edit against dense; `active` as `active_masks` gives it."""
    return [
        _difference(spec, result[spec.name], dense[spec.name], active.get(spec.level or ""))
        for spec in bundle.manifest.outputs
    ]


def image_size(spec: InputSpec) -> tuple[int, int]:
    """(height, width) of a spatial input."""
    axes = spec.axes or []
    return spec.shape[axes.index("Y")], spec.shape[axes.index("X")]


def psnr(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    """20 log10(peak / sqrt(mean((a - b)^2))) in dB; infinite for equal arrays."""
    mean_square = float(np.mean((a.astype(np.float64) - b) ** 2)) if a.size else 0.0
    if mean_square == 0:
        return math.inf
    return 20 * math.log10(peak / math.sqrt(mean_square)) if peak > 0 else -math.inf


def _difference(spec: OutputSpec, a: np.ndarray, b: np.ndarray, active: np.ndarray | None) -> Difference:
    """The peak is the range of the dense output, largest value less smallest."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(a - b)
    peak = float(np.ptp(b)) if b.size else 0.0
    inside = outside = None
    if active is not None and spec.layout is not None:
        where = _spread(spec, active)
        inside, outside = (psnr(a[part], b[part], peak) if part.any() else None for part in (where, ~where))
    return Difference(
        output=spec.name,
        max_error=float(error.max(initial=0.0)),
        mean_error=float(error.mean()) if error.size else 0.0,
        psnr=psnr(a, b, peak),
        psnr_inside=inside,
        psnr_outside=outside,
    )


def _spread(spec: OutputSpec, active: np.ndarray) -> np.ndarray:
    """The active pixels as a bool array of the output's own shape, whatever its layout."""
    where = np.zeros(spec.shape, bool)
    channels = math.prod(size for axis in spec.layout or [] for kind, size in axis if kind == "C")
    pixels = np.flatnonzero(active)
    rows.put_output(spec, where, np.ones((spec.pixels("N"), pixels.size, channels), bool), pixels)
    return where
