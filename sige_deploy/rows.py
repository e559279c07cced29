"""Between dense arrays as users know them and rows [B, P, C] as the edit graph knows them."""

from __future__ import annotations

import numpy as np

from sige_deploy.manifest import InputSpec, OutputSpec


def size(spec: InputSpec) -> tuple[int, int]:
    """(height, width) of a spatial input in pixels."""
    axes = spec.axes or []
    return spec.shape[axes.index("Y")], spec.shape[axes.index("X")]


def planes(spec: InputSpec, dense: np.ndarray) -> np.ndarray:
    """View [N, C, Y, X] of a spatial input; an axis that the input lacks has size 1."""
    axes = list(spec.axes or [])
    view = dense.transpose([axes.index(kind) for kind in ("N", "C", "Y", "X") if kind in axes])
    for position, kind in enumerate(("N", "C")):
        if kind not in axes:
            view = np.expand_dims(view, position)
    return view


def take(spec: InputSpec, dense: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Rows [B, P, C] of a spatial input at pixels `active` (int [P], y * W + x)."""
    view = planes(spec, dense)
    y, x = np.divmod(active, view.shape[3])
    return np.ascontiguousarray(view[:, :, y, x].transpose(0, 2, 1))


def put_input(spec: InputSpec, dense: np.ndarray, rows: np.ndarray, active: np.ndarray) -> None:
    """Write rows [B, P, C] of a spatial input at pixels `active`, the inverse of `take`."""
    view = planes(spec, dense)
    y, x = np.divmod(active, view.shape[3])
    view[:, :, y, x] = rows.transpose(0, 2, 1)


def put_output(spec: OutputSpec, dense: np.ndarray, rows: np.ndarray, active: np.ndarray) -> None:
    """Write rows [B, P, C] of a spatial output into its C-contiguous dense array at pixels `active` (int
    [P]).

    The dense array is seen as one axis per atom, pixel atoms first, then batch, then channels in `order`:
    there a row is one entry, whatever the layout.
    """
    if active.size == 0:
        return
    atoms = [atom for axis in spec.layout or [] for atom in axis]
    kinds = [kind for kind, _ in atoms]
    position = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in ("N", "Y", "X", "C")}
    channels = [position["C"][i] for i in spec.order or []]
    y_sizes = [atoms[i][1] for i in position["Y"]]
    x_sizes = [atoms[i][1] for i in position["X"]]
    y, x = np.divmod(active, spec.pixels("X"))
    where = (*_unravel(y, y_sizes), *_unravel(x, x_sizes))
    view = dense.reshape([size for _, size in atoms])
    view = view.transpose([*position["Y"], *position["X"], *position["N"], *channels])
    inner = view.shape[len(where) :]
    view[where] = rows.transpose(1, 0, 2).reshape(active.size, *inner) if where else rows.reshape(inner)


def _unravel(index: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.unravel_index(index, sizes)) if sizes else ()
