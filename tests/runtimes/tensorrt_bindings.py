"""Run by test_tensorrt_bindings.py in a process of its own, with one of TensorRT's real packages: how its
Python bindings differ from the stand-in, and what the runtime makes of a file that is no engine."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import fake_tensorrt

from sige_deploy.devices.memory import HostMemory
from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.tensorrt_engines import Engine
from sige_deploy.runtimes.tensorrt_packages import Package

CLASSES = ("ILogger", "IPluginRegistry", "Runtime", "ICudaEngine", "IExecutionContext")
ENUMS = ("DataType", "TensorIOMode", "TensorLocation", "ExecutionContextAllocationStrategy")


def main(package: str, module: str, garbage: str, plugins: str | None) -> dict[str, Any]:
    sys.path.insert(0, package)
    trt = importlib.import_module(module)
    rtx = "rtx" in module
    differences = [text for name in CLASSES for text in of_class(trt, name, rtx)]
    differences += [text for name in ENUMS for text in of_enum(trt, name)]
    if rtx:
        differences += of_class(trt, "IRuntimeConfig", rtx)
        differences += of_enum(trt, "DynamicShapesKernelSpecializationStrategy")
        theirs = parameters(trt.IExecutionContext.is_stream_capturable)
        if ["stream"] not in theirs:
            differences.append(f"is_stream_capturable: {theirs}")
    found = Package(module, "tensorrt-rtx" if rtx else "tensorrt", trt)
    if plugins:
        for _ in range(2):
            found.load_plugins(Path(plugins))
    creators = [c.name for c in trt.get_plugin_registry().all_creators if c.plugin_namespace == "sige"]
    try:
        Engine(found, Path(garbage), HostMemory())
        said = ""
    except RuntimeFailure as error:
        said = str(error)
    return {"differences": differences, "said": said, "title": found.title, "creators": sorted(creators)}


def of_class(trt: Any, name: str, rtx: bool) -> list[str]:
    """Public names of a class of the stand-in that the real one lacks or takes otherwise."""
    ours, theirs = getattr(fake_tensorrt, name), getattr(trt, name)
    found = []
    for member, value in vars(ours).items():
        if member.startswith("_") or (member == "create_runtime_config" and not rtx):
            continue
        real = getattr(theirs, member, None)
        if real is None:
            found.append(f"{name} has no {member}")
        elif isinstance(value, property) != isinstance(real, property):
            found.append(f"{name}.{member} is a method of one and a property of the other")
        elif inspect.isfunction(value):
            names = list(inspect.signature(value).parameters)[1:]
            overloads = parameters(real)
            if names not in overloads and set(names) != {x for names in overloads for x in names}:
                found.append(f"{name}.{member}: {names}, the real one {overloads}")
    return found


def of_enum(trt: Any, name: str) -> list[str]:
    ours: type[IntEnum] = getattr(fake_tensorrt, name)
    theirs = getattr(trt, name).__members__
    return [f"{name}.{m.name}" for m in ours if m.name not in theirs or int(theirs[m.name]) != m]


def parameters(function: Any) -> list[list[str]]:
    """Names of the parameters of each overload, but self, as pybind writes them."""
    name = function.__name__
    lines = re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) -> ", function.__doc__, re.M)
    return [re.findall(r"(?:^|, )(\w+): ", line)[1:] for line in lines]


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
