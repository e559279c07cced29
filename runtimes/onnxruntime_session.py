"""ONNX Runtime sessions for a bundle's graphs, and ONNX Runtime's errors in one sentence."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sige_deploy.devices.memory import Memory, out_of_memory
from sige_deploy.errors import RuntimeFailure

OVERLOADS_SINCE = (1, 27)
FLASH_SWITCH = "ORT_DISABLE_FLASH_ATTENTION"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_MEMORY = re.compile(
    r"failed to allocate|bad_alloc|out of memory|bad allocation|unable to allocate|smaller than requested",
    re.I,
)
_REQUESTED = re.compile(r"(?:buffer of size|requested bytes of|of size:?) (\d+)", re.I)


def create(
    path: Path,
    providers: Sequence[Any],
    threads: int | None,
    *,
    library: Path | None = None,
    shared: Mapping[str, Any] | None = None,
    rows_vary: bool = False,
    fold: bool = True,
    memory: Memory | None = None,
    model: bytes | None = None,
) -> Any:
    """An InferenceSession of a graph file.

    providers: as ONNX Runtime takes them; the first must be usable, or RuntimeFailure says so.
    library: custom ops to register. shared: OrtValues to take for initializers of their names.
    rows_vary: shapes change from run to run. fold: compute constant parts once, into memory of their own.
    memory: whose memory the session uses, None: the host's. model: a graph to read in place of the file, with
    weights beside that.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures come as exceptions, in one sentence
    if threads is not None:
        options.intra_op_num_threads = threads
    if rows_vary:
        options.enable_mem_pattern = False
    if library is not None:
        with translated(f"loading '{library}'"):
            options.register_custom_ops_library(str(library))
    for name, value in (shared or {}).items():
        options.add_initializer(name, value)  # names that the graph lacks are ignored
    # Pad_Fusion makes a MaxPool ignore the zeros that it takes over from a Pad: wrong below zero.
    disabled = ["Pad_Fusion"]
    if not fold:
        disabled.append("ConstantFolding")
    if shared:
        # They transpose a weight under its name, by which the shared one then replaces it as it was.
        disabled += ["TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"]
    with translated(f"loading '{path}'", memory):
        if model is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
        with _without_flash_attention():
            session = onnxruntime.InferenceSession(
                path if model is None else model,
                options,
                providers=list(providers),
                disabled_optimizers=disabled,
            )
        session.disable_fallback()
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if session.get_providers()[0] != wanted:
            raise RuntimeFailure(
                f"ONNX Runtime cannot use its {wanted} on this machine; check the driver and libraries, or "
                "open the bundle with device='cpu'."
            )
        return session


@contextlib.contextmanager
def _without_flash_attention() -> Iterator[None]:
    """Sessions made here use ONNX Runtime's memory-efficient attention on a GPU.

    With its flash attention (1.30 on an H200, float16, Stable Diffusion 1.5 at 64 x 64) layers were off by a
    third of their largest value and the network by 9 %, against 0.2 % without. It can be switched by the
    environment alone, which is read while a session is made.
    """
    before = os.environ.get(FLASH_SWITCH)
    os.environ[FLASH_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FLASH_SWITCH]
        else:
            os.environ[FLASH_SWITCH] = before


def edit_graph() -> str:
    """Before 1.27 ONNX Runtime takes one body for every overload of a function: it gets the graph
    without functions."""
    import onnxruntime

    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    return "edit.onnx" if (major, minor) >= OVERLOADS_SINCE else "edit_inlined.onnx"


@contextlib.contextmanager
def translated(doing: str, memory: Memory | None = None) -> Iterator[None]:
    """Engine exceptions, of many types and lines, as one RuntimeFailure with one sentence. memory: whose
    memory the engine uses, None: the host's."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or _MEMORY.search(text):
            if memory is not None and memory.backend:
                requested = _REQUESTED.search(text)
                wanted = int(requested[1]) if requested else None
                raise RuntimeFailure(out_of_memory(memory.device, wanted, memory.free_bytes())) from error
            raise RuntimeFailure(
                f"{doing} ran out of memory; free some, or export the network at a smaller size."
            ) from error
        raise RuntimeFailure(f"{doing} failed in ONNX Runtime: {_first_sentence(text)}") from error


def _first_sentence(text: str, limit: int = 300) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
