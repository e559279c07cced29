"""Run by the tests in a process of its own: load the library into a registry, create a plugin of each op."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np

ATTRIBUTES: dict[str, dict[str, str | int | float]] = {
    "Gather": {"inputs": "rows base halo table scale", "phases": 4, "pad_value": -1.5, "activation": "silu"},
    "Conv": {
        "inputs": "rows weight bias residual",
        "norm_epsilon": 1e-5,
        "gate": "gelu",
        "alpha_in": 0.25,
        "activation_out": "gelu",
    },
    "Scatter": {"inputs": "base rows active"},
    "Attention": {"inputs": "q k v k_base v_base active", "heads": 8, "scale": 0.125},
}


def main(package: str, module: str, library: str) -> dict[str, Any]:
    sys.path.insert(0, package)
    trt = importlib.import_module(module)
    types = trt.PluginFieldType
    kinds = {str: types.CHAR, int: types.INT32, float: types.FLOAT32}

    kept = []  # a field does not own its data

    def field(name: str, value: str | int | float) -> Any:
        if isinstance(value, str):
            kept.append(np.frombuffer(value.encode(), np.int8))
        else:
            kept.append(np.array([value], np.int32 if isinstance(value, int) else np.float32))
        return trt.PluginField(name, kept[-1], kinds[type(value)])

    registry = trt.get_plugin_registry()
    handle = registry.load_library(library)
    found = {}
    for op, attributes in ATTRIBUTES.items():
        creator = registry.get_creator(op, "1", "sige")
        fields = trt.PluginFieldCollection([field(*item) for item in attributes.items()])
        plugin = creator.create_plugin(op, fields, trt.TensorRTPhase.RUNTIME)
        core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
        refused = creator.create_plugin(op, trt.PluginFieldCollection([]), trt.TensorRTPhase.RUNTIME)
        found[op] = {
            "identity": [core.plugin_name, core.plugin_version, core.plugin_namespace],
            "fields": sorted(field.name for field in creator.field_names),
            "refused": refused is None,
        }
        del creator, plugin, core  # before their library goes
    creators = sorted(c.name for c in registry.all_creators if c.plugin_namespace == "sige")
    registry.deregister_library(handle)
    left = [c.name for c in registry.all_creators if c.plugin_namespace == "sige"]
    return {"creators": creators, "found": found, "left": left}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
