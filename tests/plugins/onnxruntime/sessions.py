"""One-node models in ONNX Runtime with the native library registered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from ops.helpers import model_of


def session_of(
    model: ir.Model,
    library: Path | None,
    threads: int = 1,
    profile: Path | None = None,
    provider: str = "CPUExecutionProvider",
) -> onnxruntime.InferenceSession:
    """A session, with the library's kernels unless it is None."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if library is not None:
        options.register_custom_ops_library(str(library))
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=[provider])


def run(
    library: Path,
    op_type: str,
    inputs: Mapping[str, np.ndarray | None],
    attributes: Mapping[str, str | int | float] | None = None,
    initializers: Iterable[str] = ("weight", "bias"),
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
) -> np.ndarray:
    """What the native kernel computes for a node."""
    model = model_of(op_type, inputs, attributes, initializers)
    session = session_of(model, library, threads, provider=provider)
    return session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})[0]


def kernels_run(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> list[str]:
    """Op types of the kernels that a run of a profiled session executes, in their order."""
    session.run(None, dict(feeds))
    events = json.loads(Path(session.end_profiling()).read_text())
    done = [event for event in events if event["name"].endswith("_kernel_time")]
    return [event["args"]["op_name"] for event in done]
