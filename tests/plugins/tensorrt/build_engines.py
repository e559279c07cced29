"""Run by the tests in a process of its own: engines of TensorRT for RTX, built without a GPU."""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any


def main(
    package: str, module: str, library: str, models: list[str], targets: list[str]
) -> list[dict[str, Any]]:
    sys.path.insert(0, package)
    trt = importlib.import_module(module)

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        said: list[str] = []  # noqa: RUF012

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.said.append(message)

    log = Log()
    trt.get_plugin_registry().load_library(library)
    built = []
    for path in models:
        log.said.clear()
        builder = trt.Builder(log)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(path):
            raise SystemExit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), i)
        profile = builder.create_optimization_profile()
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        for given in inputs:
            shapes = [[rows if n < 0 else n for n in given.shape] for rows in (0, 64, 512)]
            if -1 in given.shape:
                profile.set_shape(given.name, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise SystemExit("\n".join(log.said))
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        # What the engine holds of each plugin to make it again.
        stored = re.findall(r"(\w+)_PluginFieldCollection", bytes(engine).decode("latin1"))
        built.append(
            {
                "plugins": sorted(x.name for x in layers if x.type == trt.LayerType.PLUGIN_V3),
                "stored": sorted(set(stored)),
                "inputs": {x.name: [list(x.shape), x.dtype.name] for x in inputs},
                "outputs": {x.name: [list(x.shape), x.dtype.name] for x in outputs},
                "said": list(log.said),
            }
        )
    return built


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
