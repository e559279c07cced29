"""The native libraries for ONNX Runtime and TensorRT: where they are, and for which bundles they may be
loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import sige_deploy
from sige_deploy import __version__
from sige_deploy.errors import RuntimeFailure
from sige_deploy.kernels import Kernels
from sige_deploy.kernels.library import CUDA, opened
from sige_deploy.manifest import Manifest

VARIABLE = "SIGE_NATIVE_LIBRARY"
NAME, KERNELS = {
    "win32": ("sige_onnxruntime.dll", "sige_kernels.dll"),
    "darwin": ("libsige_onnxruntime.dylib", "libsige_kernels.dylib"),
}.get(sys.platform, ("libsige_onnxruntime.so", "libsige_kernels.so"))
PLUGINS = "libsige_tensorrt.so"  # TensorRT's, built on Linux alone
_CHECKOUT = Path(__file__).resolve().parents[1]


def library() -> Path | None:
    """The library to register with ONNX Runtime, or None where there is none: the file that the environment
    variable SIGE_NATIVE_LIBRARY names, else what `make native` built, if the package runs from a checkout,
    else the one that was installed with the package.

    Raises RuntimeFailure when SIGE_NATIVE_LIBRARY names no file, when the library cannot be loaded, and when
    it belongs to another version of sige_deploy.
    """
    path = _find()
    if path is not None:
        _check(path)
    return path


def cuda(manifest: Manifest, device: str) -> tuple[Path, Kernels]:
    """(the library to register, the kernels' own library, which lies beside it) for sessions on a GPU.

    Raises RuntimeFailure with one sentence where they are missing, belong to another version, were built
    without CUDA, or cannot run the bundle's edit graph.
    """
    _check_types(manifest)
    path = library()
    if path is None:
        raise RuntimeFailure(
            f"device '{device}' needs the native library with CUDA kernels, and there is none; build it with "
            "'make native-cuda', or open the bundle with device='cpu'."
        )
    return path, _with_cuda(path.with_name(KERNELS))


def tensorrt(manifest: Manifest) -> tuple[Path, Kernels]:
    """(the library of TensorRT plugins, the kernels' own library) for sessions of TensorRT.

    Raises RuntimeFailure with one sentence where they are missing, were built without CUDA, have another API
    version, or cannot run the bundle's edit graph.
    """
    _check_types(manifest)
    plugins, kernels = find_plugins()
    return plugins, _with_cuda(kernels)


def find_plugins() -> tuple[Path, Path]:
    """(the library of TensorRT plugins, the kernels' own library beside it): in the folder of the file that
    SIGE_NATIVE_LIBRARY names, else where `library` looks. Nothing is loaded, so that a machine without a GPU
    has them too. Raises RuntimeFailure where there are none."""
    named = os.environ.get(VARIABLE)
    places = [Path(named).absolute()] if named else _places()
    for path in places:
        if path.with_name(PLUGINS).is_file() and path.with_name(KERNELS).is_file():
            return path.with_name(PLUGINS), path.with_name(KERNELS)
    where = f"the folder '{places[0].parent}' that {VARIABLE} names has none" if named else "there is none"
    raise RuntimeFailure(
        f"TensorRT needs the library of plugins {PLUGINS}, and {where}; build it with 'make native-cuda'."
    )


def supports(manifest: Manifest) -> bool:
    """Whether the CPU kernels can run every op of a bundle's edit graph. They know float32 only, and ONNX
    Runtime does not fall back on an op's function body once a kernel is registered."""
    return _types(manifest) == {"float32"}


def _check_types(manifest: Manifest) -> None:
    types = _types(manifest)
    if not types <= {"float16", "float32"}:
        raise RuntimeFailure(
            f"the CUDA kernels know float16 and float32, and this bundle holds {', '.join(sorted(types))}; "
            "open it with device='cpu', or export it with precision='float16'."
        )


def _with_cuda(path: Path) -> Kernels:
    kernels = Kernels(path)
    if not kernels.has(CUDA):
        raise RuntimeFailure(
            f"the native library '{path}' was built without CUDA; build it with 'make native-cuda', "
            "or open the bundle with device='cpu'."
        )
    return kernels


def _types(manifest: Manifest) -> set[str]:
    """dtypes that the ops of the edit graph meet."""
    return {manifest.precision} | {cache.dtype for cache in manifest.caches if cache.kind == "base"}


def _find() -> Path | None:
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).absolute()
        if not path.is_file():
            raise RuntimeFailure(f"{VARIABLE} names '{named}', which is no file; correct or unset it.")
        return path
    return next((path for path in _places() if path.is_file()), None)


def _places() -> list[Path]:
    """Where the library may be, the first one first."""
    # An editable install keeps what was built apart from the sources: another folder of the package's path.
    places = [Path(folder) / NAME for folder in sige_deploy.__path__]
    if (_CHECKOUT / "plugins" / "CMakeLists.txt").is_file():
        places.insert(0, _CHECKOUT / "build" / "native" / NAME)
    return places


def _check(path: Path) -> None:
    try:
        function = opened(path).sige_onnxruntime_version
    except AttributeError as error:
        raise RuntimeFailure(
            f"'{path}' is no native library of sige_deploy; build it anew or remove it."
        ) from error
    function.restype = ctypes.c_char_p
    found = function().decode()
    if found != __version__:
        raise RuntimeFailure(
            f"the native library '{path}' belongs to sige_deploy {found}, this is {__version__}; "
            "build it anew or remove it."
        )
