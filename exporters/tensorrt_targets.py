"""What TensorRT engines are built for: which TensorRT, and which GPUs."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sige_deploy.engines import TITLES, Flavour, architecture, sorted_capabilities
from sige_deploy.errors import InputError, RuntimeFailure

#: Where there is no GPU to go by: GeForce RTX 30, 40 and 50.
COMMON = ["8.6", "8.9", "12.0"]
#: Modules of Python that hold the builder; the bindings of TensorRT for RTX do without its front end.
MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
INSTALL: dict[Flavour, str] = {
    "tensorrt": "install NVIDIA's package tensorrt",
    "tensorrt-rtx": "run pip install 'sige-deploy[tensorrt]'",
}

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: the compute capability


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine; capability: its compute capability, e.g. "8.6"."""

    name: str
    capability: str


@dataclass(frozen=True)
class Target:
    """flavour: of TensorRT. capabilities: of the GPUs. gpu: the one that tactics are timed on, or None."""

    flavour: Flavour
    capabilities: tuple[str, ...]
    gpu: str | None


def choose(flavour: Flavour | None, targets: Sequence[str] | None) -> Target:
    """The target for what the user said. flavour: None is TensorRT where it is installed and there is a GPU,
    else TensorRT for RTX. targets: architectures as in "sm86"; None is this machine's GPU, or COMMON for
    TensorRT for RTX without one. Raises InputError or RuntimeFailure with one sentence."""
    capabilities = None if targets is None else _capabilities(targets)
    gpu = first_gpu()
    if flavour is None:
        ahead = gpu is None or not installed("tensorrt")
        if capabilities is not None and gpu is not None:
            ahead |= capabilities != [gpu.capability]
        flavour = "tensorrt-rtx" if ahead else "tensorrt"
    if not installed(flavour):
        raise RuntimeFailure(
            f"building engines needs {TITLES[flavour]}, which is not installed; {INSTALL[flavour]}."
        )
    if flavour == "tensorrt-rtx":
        return Target(flavour, tuple(capabilities or ([gpu.capability] if gpu else COMMON)), None)
    if gpu is None:
        raise RuntimeFailure(
            "TensorRT builds engines on the GPU that they are for, and this machine has none; build there, "
            "or ahead of time with --target tensorrt-rtx."
        )
    if capabilities not in (None, [gpu.capability]):
        raise InputError(
            f"TensorRT builds engines for the GPU of this machine, {architecture(gpu.capability)}; leave "
            "--targets out, or build ahead of time with --target tensorrt-rtx."
        )
    return Target(flavour, (gpu.capability,), gpu.name)


def installed(flavour: Flavour) -> bool:
    """Whether a package of this TensorRT is there; nothing is loaded."""
    return any(importlib.util.find_spec(name) is not None for name in MODULES[flavour])


def first_gpu() -> Gpu | None:
    """The first NVIDIA GPU that CUDA shows this process; None where there is none, or no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    number = [ctypes.c_int(), ctypes.c_int()]
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or cuda.cuDeviceGetName(name, len(name), device)
    for part, attribute in zip(number, (_MAJOR, _MINOR)):
        failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
    return None if failed else Gpu(name.value.decode(), ".".join(str(part.value) for part in number))


def _capabilities(targets: Sequence[str]) -> list[str]:
    for target in targets:
        if not re.fullmatch(r"sm\d{2,3}", target, re.I):
            raise InputError(f"'{target}' is no target; name GPU architectures such as sm86, sm89 or sm120.")
    if not targets:
        raise InputError("no target is named; name GPU architectures such as sm86, sm89 or sm120.")
    return sorted_capabilities([f"{target[2:-1]}.{target[-1]}" for target in targets])
