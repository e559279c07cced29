"""A bundle on one engine against another engine or the original network, through Polygraphy's comparator.

Both sides run the same graph on the same inputs, so that they differ by rounding alone. How far an edit is
from the dense network is another question: sige_deploy.compare.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sige_deploy.bench import always_sparse
from sige_deploy.bundle import Bundle
from sige_deploy.caches import load
from sige_deploy.errors import RuntimeFailure
from sige_deploy.inputs import checked
from sige_deploy.layers import OnnxRuntimeSide, edit_feeds, marked, sparse_edit
from sige_deploy.manifest import Manifest
from sige_deploy.original import Original
from sige_deploy.runtimes.base import Runtime
from sige_deploy.session import Session

Arrays = dict[str, np.ndarray]
Graph = Literal["edit", "record", "dense"]


@dataclass(frozen=True)
class Tolerance:
    """An element differs where it is off by more than `absolute` and by more than `relative` times the other
    side's value."""

    absolute: float
    relative: float

    @classmethod
    def of(cls, manifest: Manifest) -> Tolerance:
        """What rounding explains in a whole network of the bundle's precision."""
        return cls(2e-2, 2e-2) if manifest.precision == "float16" else cls(1e-4, 1e-3)


@dataclass(frozen=True)
class Value:
    """An output or a layer on both sides. Errors are infinite where shapes differ or a side has NaN.

    operator: type and name of the node that computes it, "" where that is not asked for. max_absolute,
    mean_absolute: in units of the value. max_relative: of the other side's value. within: whether every
    element is within the tolerance.
    """

    name: str
    operator: str
    max_absolute: float
    mean_absolute: float
    max_relative: float
    within: bool


@dataclass(frozen=True)
class Agreement:
    """What two sides say to one graph. values: layers in the order in which they are computed; or caches,
    then outputs."""

    graph: Graph
    ours: str
    theirs: str
    tolerance: Tolerance
    values: list[Value]

    @property
    def first(self) -> Value | None:
        """The first value beyond the tolerance."""
        return next((value for value in self.values if not value.within), None)


def outputs_on(
    bundle: Bundle,
    runtime: Runtime,
    graph: Graph,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None = None,
) -> Arrays:
    """What an engine gives: "edit": the caches after a sparse edit of the recorded `original` is committed,
    and its outputs; "record": the caches and outputs for `edited`; "dense": the outputs for `edited`. Caches
    are called "cache.NAME"; those that edits never change are left out.

    original, edited: all inputs by name. mask: as for Session.edit. Raises InputError where nothing differs,
    so that no edit runs, and what sessions raise.
    """
    if graph == "dense":
        return dict(runtime.dense(checked(bundle.manifest.inputs, edited)))
    written = {f"cache.{cache.name}" for cache in bundle.manifest.caches if cache.rows}
    with Session(always_sparse(bundle), runtime) as session, tempfile.TemporaryDirectory() as folder:
        if graph == "record":
            outputs = session.record(**edited)
        else:
            outputs = sparse_edit(session, original, edited, mask)
            session.commit()
        state = Path(folder, "state")
        session.save(state)
        arrays = load(state, bundle.manifest)
    return {**{name: array for name, array in arrays.items() if name in written}, **outputs}


def compare_outputs(
    bundle: Bundle,
    ours: Runtime,
    theirs: Runtime | Original,
    graph: Graph,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None = None,
    tolerance: Tolerance | None = None,
) -> Agreement:
    """What `outputs_on` gives on the engine `ours` against another engine, or against the original network,
    which has the graph "dense" alone. Other arguments and errors: as for `outputs_on`; tolerance: None for
    that of the bundle's precision. Raises RuntimeFailure without Polygraphy."""
    _require_polygraphy()
    first = outputs_on(bundle, ours, graph, original, edited, mask)
    if isinstance(theirs, Original):
        second = theirs.outputs(edited)
    else:
        second = outputs_on(bundle, theirs, graph, original, edited, mask)
    return _agreement(bundle, graph, ours.name, theirs.name, first, second, tolerance, {})


def compare_layers(
    bundle: Bundle,
    ours: OnnxRuntimeSide,
    theirs: OnnxRuntimeSide | Original,
    graph: Graph,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None = None,
    tolerance: Tolerance | None = None,
) -> Agreement:
    """Every value that the nodes of a graph compute, on the same feeds for both sides: an edit reads caches
    of one and the same record. Otherwise as `compare_outputs`; of the original network, the values that have
    names of the graph's, as after an export by the same version of torch.

    Engines fuse less where every value is an output, so this is not quite what they run otherwise.
    """
    _require_polygraphy()
    known = marked(bundle, graph)
    if graph == "edit":
        feeds = edit_feeds(bundle, original, edited, mask, ours.threads)
    else:
        feeds = checked(bundle.manifest.inputs, edited)
    first, second = ours.values(known, feeds), theirs.values(known, feeds)
    return _agreement(bundle, graph, ours.name, theirs.name, first, second, tolerance, known.operators)


def compare_values(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    tolerance: Tolerance,
    operators: Mapping[str, str] | None = None,
) -> list[Value]:
    """Polygraphy's comparison of the values that both have, in the order of `ours`."""
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    empty = {name for name, value in ours.items() if not value.size and value.shape == theirs[name].shape}
    pairs = {name: _comparable(value, theirs[name]) for name, value in ours.items() if name not in empty}
    found: Mapping[str, Any] = {}
    if pairs:
        results = RunResults()
        for side, name in enumerate(("ours", "theirs")):
            results.add([{key: pair[side] for key, pair in pairs.items()}], runner_name=name)
        compare = SimpleCompareFunc(
            atol=tolerance.absolute,
            rtol=tolerance.relative,
            find_output_func=lambda name, index, other: [name],
        )
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):
            [accuracy] = Comparator.compare_accuracy(results, compare_func=compare)
        [found] = accuracy["ours", "theirs"]
    return [_value(name, (operators or {}).get(name, ""), found.get(name)) for name in ours]


def _value(name: str, operator: str, result: Any) -> Value:
    """result: Polygraphy's; None for two empty arrays, False where the shapes differ."""
    if result is None:
        return Value(name, operator, 0.0, 0.0, 0.0, True)
    if isinstance(result, bool):
        return Value(name, operator, math.inf, math.inf, math.inf, False)
    most, mean, relative = (
        math.inf if math.isnan(error) else error
        for error in (result.max_absdiff, result.mean_absdiff, result.max_reldiff)
    )
    return Value(name, operator, most, mean, relative, bool(result))


def _comparable(*pair: np.ndarray) -> list[np.ndarray]:
    """In 32 bits or more, with an axis, and without the infinities that both have at the same place."""
    made = [np.atleast_1d(a.astype(np.float32) if a.dtype == np.float16 else a) for a in pair]
    if made[0].shape == made[1].shape and all(a.dtype.kind == "f" for a in made):
        same = np.isinf(made[0]) & (made[0] == made[1])
        if same.any():
            made = [np.where(same, np.zeros((), a.dtype), a) for a in made]
    return made


def _agreement(
    bundle: Bundle,
    graph: Graph,
    ours: str,
    theirs: str,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    tolerance: Tolerance | None,
    operators: Mapping[str, str],
) -> Agreement:
    common = _common(list(operators) or list(first), first, second)
    tolerance = tolerance or Tolerance.of(bundle.manifest)
    values = compare_values({name: first[name] for name in common}, second, tolerance, operators)
    return Agreement(graph, ours, theirs, tolerance, values)


def _common(names: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [name for name in names if name in first and name in second]


def _require_polygraphy() -> None:
    try:
        import polygraphy  # noqa: F401
    except ImportError as error:
        raise RuntimeFailure(
            "comparing engines needs Polygraphy; run pip install 'sige-deploy[compare]'."
        ) from error
