"""Every value that a bundle's graph computes, and the feeds that all sides of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy import native
from sige_deploy.bench import always_sparse
from sige_deploy.bundle import Bundle
from sige_deploy.devices.host import HostDevice
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.session import Session

if TYPE_CHECKING:
    from sige_deploy.runtimes.onnxruntime import OnnxRuntime

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Marked:
    """A graph whose values are all outputs.

    path: of the file that it was, beside which its weights lie. model: ONNX, serialized. operators: what
    computes each value by name, e.g. "Conv node_Conv_34", in the graph's order.
    """

    path: Path
    model: bytes
    operators: dict[str, str]


def marked(bundle: Bundle, graph: str) -> Marked:
    """Of "edit", "record" or "dense". Raises RuntimeFailure without the package onnx."""
    from sige_deploy.runtimes.onnxruntime_session import edit_graph

    return mark(bundle.path(edit_graph() if graph == "edit" else f"{graph}.onnx"))


def mark(path: Path) -> Marked:
    """Of an .onnx file; its weights, in other files, are not read."""
    try:
        import onnx
    except ImportError as error:
        raise RuntimeFailure(
            "comparing layers needs onnx; run pip install 'sige-deploy[compare]'."
        ) from error

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    operators = {name: f"{node.op_type} {node.name}" for node in graph.node for name in node.output if name}
    outputs = {output.name for output in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in operators if name not in outputs)
    return Marked(path, model.SerializeToString(), operators)


def edit_feeds(
    bundle: Bundle,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
    threads: int | None,
) -> Arrays:
    """What the edit graph is fed for this edit by the reference engine: indices, rows, free inputs, caches.
    Raises InputError where nothing differs, and what sessions raise."""
    runtime = _Feeds(bundle, reference(bundle, threads))
    with Session(always_sparse(bundle), runtime) as session:
        sparse_edit(session, original, edited, mask)
    return runtime.feeds


def sparse_edit(
    session: Session,
    original: Mapping[str, np.ndarray],
    edited: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
) -> Arrays:
    """Record, edit, and return the edit's outputs. Raises InputError where nothing differs, so that the edit
    graph does not run, and what sessions raise."""
    session.record(**original)
    outputs = session.edit(mask=mask, **edited)
    if session.report.path != "sparse":
        raise InputError("the edited inputs differ in no pixel from the recorded ones; give one that does.")
    return outputs


def reference(bundle: Bundle, threads: int | None) -> OnnxRuntime:
    """The engine that the others are held against: ONNX Runtime's own operators on the CPU."""
    from sige_deploy.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime(bundle, "cpu", threads, kernels=False)


class _Feeds:
    """A runtime that keeps what it was fed."""

    def __init__(self, bundle: Bundle, runtime: OnnxRuntime) -> None:
        self._bundle, self._runtime = bundle, runtime
        self.name, self.dense, self.record = runtime.name, runtime.dense, runtime.record
        self.edit_inputs, self.close = runtime.edit_inputs, runtime.close
        self.feeds: Arrays = {}

    def device(self) -> HostDevice:
        return HostDevice(self._bundle, self)

    def edit(
        self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
    ) -> Mapping[str, np.ndarray]:
        given = {**caches, **feeds}
        self.feeds = {name: given[name] for name in self.edit_inputs()}
        return self._runtime.edit(feeds, caches, outputs)


class OnnxRuntimeSide:
    """ONNX Runtime, asked for every value.

    name: for reports. library: of native kernels, or None for the ops' function bodies. providers: as ONNX
    Runtime takes them.
    """

    def __init__(
        self,
        name: str,
        threads: int | None,
        library: Path | None = None,
        providers: list[Any] | None = None,
    ) -> None:
        self.name, self.threads = name, threads
        self._library, self._providers = library, providers or ["CPUExecutionProvider"]

    @classmethod
    def of(cls, bundle: Bundle, device: str, threads: int | None) -> OnnxRuntimeSide:
        """With the operators that a session on the device has."""
        from sige_deploy.runtimes.onnxruntime import kernels_for

        if not device.startswith("cuda"):
            library = kernels_for(bundle)
            return cls(f"onnxruntime {device}" + (", native kernels" if library else ""), threads, library)
        from sige_deploy.devices.cuda import device_index

        provider = ("CUDAExecutionProvider", {"device_id": device_index(device)})
        library, _ = native.cuda(bundle.manifest, device)
        return cls(
            f"onnxruntime {device}, native kernels", threads, library, [provider, "CPUExecutionProvider"]
        )

    def values(self, graph: Marked, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Every value of the graph that is a tensor, by name; of `feeds`, those that it lacks are skipped.
        Raises RuntimeFailure."""
        from sige_deploy.runtimes.onnxruntime_session import create, translated

        session = create(
            graph.path,
            self._providers,
            self.threads,
            library=self._library,
            rows_vary=True,
            model=graph.model,
        )
        names = [output.name for output in session.get_outputs()]
        with translated("the comparison"):
            given = {node.name: feeds[node.name] for node in session.get_inputs()}
            found = dict(zip(names, session.run(names, given)))
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
