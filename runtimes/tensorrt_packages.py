"""The installed TensorRT packages: which there are, what they log, and the plugins that they load."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sige_deploy.devices.memory import Memory, out_of_memory
from sige_deploy.engines import Flavour
from sige_deploy.errors import RuntimeFailure

#: Packages by the flavour of the engines that they read, the fuller one first.
PACKAGES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_lean"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|bad_alloc|requested size was", re.I)
_REQUESTED = re.compile(r"requested size was (\d+)", re.I)
_SENTENCE = 300  # characters of what TensorRT says

_lock = threading.RLock()
_packages: dict[str, Package] = {}


def installed(flavour: Flavour) -> Package | None:
    """The package that reads engines of a flavour, loaded once in a process;
    None where none is installed. Raises RuntimeFailure where it is there and cannot be loaded."""
    for name in PACKAGES[flavour]:
        with _lock:
            if name in _packages:
                return _packages[name]
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:  # a folder of that name is no package
                continue
            try:
                module = importlib.import_module(name)
            except (ImportError, OSError, RuntimeError) as error:
                raise RuntimeFailure(
                    f"the package {name} cannot be loaded ({_sentence(str(error))}); install it anew."
                ) from error
            _packages[name] = Package(name, flavour, module)
            return _packages[name]
    return None


class Package:
    """TensorRT for Python as one of its packages has it.

    module: with the classes. flavour: as in an engine's manifest. version: e.g. "10.16.1.11".
    """

    def __init__(self, name: str, flavour: Flavour, module: Any) -> None:
        self.module, self.flavour = module, flavour
        self.version: str = module.__version__
        major, minor = self.version.split(".")[:2]
        self.title = f"{name.removesuffix('_bindings').replace('_', '-')} {major}.{minor}"
        self._said = threading.local()
        self._plugins: set[Path] = set()
        self.log = self._make_log()

    def load_plugins(self, path: Path) -> None:
        """Put a plugin library into TensorRT's registry, once. Raises RuntimeFailure with one sentence."""
        with _lock:
            if path not in self._plugins:
                registry = self.module.get_plugin_registry()
                self.ask(f"loading '{path}'", None, lambda: registry.load_library(str(path)))
                self._plugins.add(path)

    def runtime(self) -> Any:
        """A trt.Runtime of the current device; raises RuntimeFailure with one sentence."""
        made: list[Any] = []
        try:
            self.tell("opening the device", None, lambda: made.append(self.module.Runtime(self.log)))
        except RuntimeFailure:
            # Without a usable driver some versions give an object around nothing, whose end is a crash.
            for nothing in made:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(nothing))
            raise
        return made[0]

    def ask(self, doing: str, memory: Memory | None, call: Callable[[], Any]) -> Any:
        """The result of a call that answers None or False where it fails; then RuntimeFailure says in one
        sentence what TensorRT logged. memory: whose memory the call may exhaust."""
        return self._called(doing, memory, call, lambda result: result is None or result is False)

    def tell(self, doing: str, memory: Memory | None, call: Callable[[], Any]) -> Any:
        """The same for a call whose failure shows in the log alone."""
        return self._called(doing, memory, call, lambda result: bool(self._said.errors))

    def _called(
        self, doing: str, memory: Memory | None, call: Callable[[], Any], failed: Callable[[Any], bool]
    ) -> Any:
        self._said.errors = []
        try:
            result = call()
        except RuntimeFailure:
            raise
        except Exception as error:  # pybind's, of several types
            raise self._failure(doing, memory, [*self._said.errors, str(error)]) from error
        if failed(result):
            raise self._failure(doing, memory, self._said.errors)
        return result

    def _failure(self, doing: str, memory: Memory | None, errors: list[str]) -> RuntimeFailure:
        whole = " ".join(errors)
        if memory is not None and _MEMORY.search(whole):
            requested = _REQUESTED.search(whole)
            wanted = int(requested[1]) if requested else None
            return RuntimeFailure(out_of_memory(memory.device, wanted, memory.free_bytes()))
        reason = _sentence(errors[0]) if errors else "it gave no reason"
        stop = "" if reason.endswith("...") else "."
        return RuntimeFailure(f"{doing} failed in {self.title}: {reason}{stop}")

    def _make_log(self) -> Any:
        package, base = self, self.module.ILogger

        class Log(base):  # type: ignore[misc, valid-type]
            """Keeps the errors of each thread's call; what else TensorRT has to say passes."""

            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in (base.ERROR, base.INTERNAL_ERROR):
                    errors = package._said.__dict__.setdefault("errors", [])
                    errors.append(msg)
                    del errors[:-8]

        return Log()


def _sentence(text: str) -> str:
    """TensorRT's message without the place in its source, in one line of bounded length without a full
    stop."""
    text = re.sub(r"^\[\S+::\d+\] | ?\bIn \S+ at /[^\s)]+", "", " ".join(text.split())).rstrip(". ")
    return text if len(text) <= _SENTENCE else text[: _SENTENCE - 3] + "..."
