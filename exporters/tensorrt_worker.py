"""Builds engines through Polygraphy, in a process of its own.

Apart, because Polygraphy knows one TensorRT per process, because TensorRT ends the process where it fails
badly, and because its libraries are found through the environment that a process starts with. The job comes
as JSON on stdin; messages go to stdout, one JSON object per line: {"progress": [graph, doing, share]},
{"version": ...}, {"built": graph, ...} and, at the end of a job that failed, {"failed": sentence}.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sige_deploy import files
from sige_deploy.engines import TITLES, architecture
from sige_deploy.errors import RuntimeFailure
from sige_deploy.exporters.tensorrt_cache import EngineCache, key
from sige_deploy.exporters.tensorrt_targets import MODULES
from sige_deploy.kernels import Kernels

Tell = Callable[..., None]
_SENTENCE = 300  # characters of what TensorRT says
_NAME = 4096  # characters of a node's name
#: Lines that give no reason: a condition that was false, and that a machine without a GPU has no driver.
_EMPTY = r"false$|Invalid Node|.*catchCudaError.*driver version is insufficient"


class Failed(Exception):
    """The sentence that says why the job cannot be done."""


def main() -> None:
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no message

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=messages, flush=True)

    try:
        Worker(json.load(sys.stdin), tell).run()
    except Failed as error:
        tell(failed=str(error))


class Worker:
    """One job: engines of several graphs for one target."""

    def __init__(self, job: Mapping[str, Any], tell: Tell) -> None:
        self.job, self.tell = job, tell
        self.ahead = job["flavour"] == "tensorrt-rtx"
        self.title = TITLES[job["flavour"]]
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if self.ahead else "0"  # read when it is imported
        self.trt = self._load()
        self.log = self._make_log()
        self.cache = EngineCache(Path(job["cache"]))

    def run(self) -> None:
        self.tell(version=self.trt.__version__)
        self._check_capabilities()
        try:
            Kernels(self.job["kernels"])  # refuses another API version
        except RuntimeFailure as error:
            raise Failed(str(error).rstrip(".")) from error
        registry = self.trt.get_plugin_registry()
        if registry.load_library(self.job["plugin"]) is None:
            raise Failed(f"{self.title} cannot load the plugins of '{self.job['plugin']}'{self._said()}")
        for graph in self.job["graphs"]:
            self._build(graph)

    def _build(self, graph: Mapping[str, Any]) -> None:
        job, name, target = self.job, graph["name"], Path(graph["target"])
        self.tell(progress=[name, "look for it in the cache", 0.0])
        where = {part: job[part] for part in ("flavour", "capabilities", "gpu", "plugin_sha256", "workspace")}
        how = {"version": self.trt.__version__, "builder": files.sha256(__file__)}
        built_from = key(graph=graph["sha256"], shapes=graph["shapes"], **how, **where)
        content = self.cache.take(built_from, target)
        reused = content is not None
        if content is None:
            content = self._build_new(graph, target)
            self.cache.keep(built_from, target, content)
        self.tell(built=name, content=content, reused=reused)

    def _build_new(self, graph: Mapping[str, Any], target: Path) -> dict[str, Any]:
        """Write the engine to `target`; returns what it was built from, as in ContentSpec."""
        from polygraphy.backend import trt as backend
        from polygraphy.exception import PolygraphyException

        trt, name = self.trt, graph["name"]
        self.log.errors.clear()
        builder = trt.Builder(self.log)
        # TensorRT 11 knows strongly typed networks only.
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, self.log)
        self.tell(progress=[name, "read the graph", 0.0])
        if not parser.parse_from_file(graph["model"]):
            raise Failed(self._parsing(name, parser))
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        plugins = {layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3}
        self._expect_plugins(name, graph["plugins"], plugins)
        if hasattr(trt.LayerType, "ATTENTION_INPUT"):  # where no kernel fits, not an error
            backend.set_decomposable_attentions((builder, network))
        timing = {} if self.ahead else {"save_timing_cache": self._timing_cache()}
        try:
            engine = backend.engine_bytes_from_network(
                (builder, network), config=self._config(graph, name), **timing
            )
        except PolygraphyException as error:
            reason = self._said() or f": {_sentence(str(error))}"
            raise Failed(f"{self.title} cannot build the {name} engine{reason}") from error
        content: dict[str, Any] = {"layers": len(layers), "plugins": graph["plugins"]}
        if self.ahead:
            stored = stored_plugins(engine)
            self._expect_plugins(name, graph["plugins"], stored)
            content["stored"] = sorted(stored)
        with target.open("wb") as file:
            file.write(engine)
        return content

    def _config(self, graph: Mapping[str, Any], name: str) -> Any:
        from polygraphy.backend import trt as backend
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        trt, job = self.trt, self.job
        profiles = [backend.Profile() for _ in graph["shapes"]]
        for profile, shapes in zip(profiles, graph["shapes"]):
            for given, (least, best, most) in shapes.items():
                profile.add(given, least, best, most)
        options: dict[str, Any] = {"profiles": profiles, "progress_monitor": self._make_monitor(name)}
        if job["workspace"] is not None:
            options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: job["workspace"]}
        if not self.ahead:
            timing = self._timing_cache()
            return backend.CreateConfig(
                load_timing_cache=timing if Path(timing).exists() else None, **options
            )
        capabilities = [tuple(int(part) for part in text.split(".")) for text in job["capabilities"]]

        def adjust(builder: Any, network: Any, config: Any) -> None:
            config.clear_flag(trt.BuilderFlag.TF32)  # as CreateConfig does: float32 is float32
            # An engine that allocates while it runs cannot be captured in a CUDA graph.
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

        return backend.PostprocessConfig(
            CreateConfigRTX(compute_capabilities=capabilities, **options), adjust
        )

    def _timing_cache(self) -> str:
        folder, job = self.cache.folder, self.job
        folder.mkdir(parents=True, exist_ok=True)
        tuned = key(version=self.trt.__version__, gpu=job["gpu"], plugin=job["plugin_sha256"])
        return str(folder / f"{tuned}.timing")

    def _load(self) -> Any:
        for name in MODULES[self.job["flavour"]]:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            except (ImportError, OSError, RuntimeError) as error:
                raise Failed(f"the package {name} cannot be loaded ({_sentence(str(error))})") from error
            sys.modules[MODULES[self.job["flavour"]][0]] = module  # by which Polygraphy imports it
            return module
        raise Failed(f"{self.title} is not installed")

    def _check_capabilities(self) -> None:
        if not self.ahead:
            return
        known = self.trt.ComputeCapability.__members__
        for capability in self.job["capabilities"]:
            if architecture(capability).upper() not in known:
                names = ", ".join(name.lower() for name in known if name.startswith("SM"))
                raise Failed(
                    f"{self.title} {self.trt.__version__} does not build for {architecture(capability)}, "
                    f"only for {names}"
                )

    def _expect_plugins(self, graph: str, expected: Mapping[str, str], found: set[str]) -> None:
        if found != set(expected):
            differing = ", ".join(sorted(found ^ set(expected))[:3])
            raise Failed(
                f"{self.title} did not take the plugins for the nodes {differing} of the {graph} graph"
            )

    def _parsing(self, graph: str, parser: Any) -> str:
        if not parser.num_errors:
            return f"{self.title} cannot read the {graph} graph{self._said()}"
        error = parser.get_error(0)
        said = [line for line in error.desc().splitlines() if not re.match(_EMPTY, line)]
        reason = _sentence(said[0]) if said else error.code().name.lower().replace("_", " ")
        if not error.node_operator():  # of the graph as a whole, or its weights
            return f"{self.title} cannot read the {graph} graph: {reason}"
        node = f"'{error.node_name()}' ({error.node_operator()})"
        return f"{self.title} cannot take the node {node} of the {graph} graph: {reason}"

    def _said(self) -> str:
        return f": {_sentence(self.log.errors[0])}" if self.log.errors else ""

    def _make_log(self) -> Any:
        base = self.trt.ILogger

        class Log(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= base.WARNING:
                    print(message, file=sys.stderr)
                if severity <= base.ERROR and not re.match(_EMPTY, message):
                    self.errors.append(message)

        return Log()

    def _make_monitor(self, graph: str) -> Any:
        base, tell = self.trt.IProgressMonitor, self.tell

        class Monitor(base):  # type: ignore[misc, valid-type]
            """Tells how far the outermost phase is; phases lie within steps of others."""

            def __init__(self) -> None:
                base.__init__(self)
                self.phases: list[tuple[str, int, int]] = []  # name, steps, steps done; outermost first
                self.told = -1.0

            def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
                self._close_after(parent)
                self.phases.append((phase, max(steps, 1), 0))
                self._tell()

            def step_complete(self, phase: str, step: int) -> bool:
                self._close_after(phase)
                if self.phases:
                    name, steps, _ = self.phases.pop()
                    self.phases.append((name, steps, min(step + 1, steps)))
                self._tell()
                return True

            def phase_finish(self, phase: str) -> None:
                self._close_after(phase)
                self.phases = self.phases[:-1]

            def _close_after(self, phase: str | None) -> None:
                while self.phases and self.phases[-1][0] != phase:
                    self.phases.pop()

            def _tell(self) -> None:
                share = 0.0
                for _, steps, done in reversed(self.phases):
                    share = min((done + share) / steps, 1.0)
                if share >= self.told + 0.01:
                    self.told = share
                    phase = self.phases[-1][0]
                    tell(progress=[graph, phase[:1].lower() + phase[1:], share])

        return Monitor()


def stored_plugins(engine: Any) -> set[str]:
    """Names of the plugins that an engine of TensorRT for RTX, a buffer, makes again when it is deserialised:
    it has what it makes them of as `"<name>_PluginFieldCollection"`, for each profile."""
    names = set()
    with memoryview(engine) as data:
        for found in re.finditer(rb"_PluginFieldCollection\"", data):
            before = bytes(data[max(found.start() - _NAME, 0) : found.start()]).rpartition(b'"')[2]
            names.add(re.sub(r" \[profile \d+\]$", "", before.decode()))
    return names


def _sentence(text: str) -> str:
    """What TensorRT says without the place in its source, in one line of bounded length, without a stop."""
    text = re.sub(r",? ?[Ii]n \S+ at [^\s)]+", "", " ".join(text.split())).rstrip(". ")
    return text if len(text) <= _SENTENCE else text[: _SENTENCE - 3] + "..."
