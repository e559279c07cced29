"""From a bundle to engines of TensorRT, or of TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sige_deploy import files, native
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.engines import (
    FOLDER,
    GRAPHS,
    MANIFEST,
    TITLES,
    ContentSpec,
    EngineManifest,
    Flavour,
    PluginSpec,
)
from sige_deploy.errors import BundleError, InputError, RuntimeFailure
from sige_deploy.exporters.tensorrt_cache import default_folder
from sige_deploy.exporters.tensorrt_graph import for_tensorrt
from sige_deploy.exporters.tensorrt_profiles import Profile, profiles, shapes
from sige_deploy.exporters.tensorrt_targets import Target, choose
from sige_deploy.exporters.versions import version
from sige_deploy.manifest import FileSpec
from sige_deploy.ops import DOMAIN

Progress = Callable[[str, int, int], None]

_STEPS = 100  # of progress, for each graph
_LIBRARIES: dict[Flavour, str] = {"tensorrt": "tensorrt_libs", "tensorrt-rtx": "tensorrt_rtx_libs"}
_MAIN = "from sige_deploy.exporters.tensorrt_worker import main; main()"


@dataclass(frozen=True)
class Built:
    """Engines in their folder. reused: names of the graphs whose engine came from the cache."""

    folder: Path
    manifest: EngineManifest
    reused: list[str]


def build(
    bundle: str | os.PathLike[str] | Bundle,
    flavour: Flavour | None = None,
    targets: Sequence[str] | None = None,
    *,
    workspace: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build the record, edit and dense engines of a bundle into its folder `tensorrt/<target>/`.

    flavour: "tensorrt", timed on this machine's GPU, or "tensorrt-rtx", built ahead of time; None: the first
    where it is installed and there is a GPU. targets: GPU architectures such as "sm86"; None: this machine's
    GPU, or sm86, sm89 and sm120 without one. workspace: bytes of scratch memory that one layer may use; None:
    TensorRT's own limit. cache: folder for engines and tactic timings of former builds; None: the user's.
    progress: called as progress(what, done, total).

    Raises BundleError, InputError or RuntimeFailure with one sentence; then the bundle is as it was.
    """
    report = progress or (lambda what, done, total: None)
    if workspace is not None and workspace < 1:
        raise InputError(f"workspace is a number of bytes, 1 or more, or None; not {workspace}.")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    target = choose(flavour, targets)
    for package in ("polygraphy", "onnx_ir"):
        if importlib.util.find_spec(package) is None:
            raise RuntimeFailure(
                f"building engines needs {package}, which is not installed; run pip install "
                "'sige-deploy[tensorrt]'."
            )
    library, kernels = native.find_plugins()
    plugin = PluginSpec.of(library, kernels)
    tuned = profiles(opened.manifest)
    parent = opened.root / FOLDER
    folder = files.sibling(parent / target.flavour)
    try:
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as scratch:
            job = {
                "flavour": target.flavour,
                "capabilities": target.capabilities,
                "gpu": target.gpu,
                "plugin": str(library),
                "kernels": str(kernels),
                "plugin_sha256": [plugin.libsige_tensorrt, plugin.libsige_kernels],
                "workspace": workspace,
                "cache": str(Path(cache or default_folder()).absolute()),
                "graphs": _write_graphs(opened, Path(scratch), folder, tuned),
            }
            said = _run(job, target, Path(scratch), report)
        manifest = EngineManifest(
            bundle=opened.id,
            flavour=target.flavour,
            version=said.version,
            capabilities=list(target.capabilities),
            gpu=target.gpu,
            precision=opened.manifest.precision,
            plugin=plugin,
            profiles=tuned,
            contents={f"{name}.engine": content for name, content in said.contents.items()},
            files={path.name: FileSpec.of(path) for path in sorted(folder.iterdir())},
            producer={name: version(name) for name in ("sige-deploy", "polygraphy", "onnx-ir")},
        )
        with files.replacing(folder / MANIFEST) as file:
            file.write(manifest.model_dump_json(indent=1).encode() + b"\n")
        files.replace_folder(folder, parent / manifest.target)
    except OSError as error:
        raise BundleError(
            f"cannot write engines to '{parent}' ({error.strerror}); make it writable and free space."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
    report("done", len(GRAPHS) * _STEPS, len(GRAPHS) * _STEPS)
    return Built(parent / manifest.target, manifest, said.reused)


def _write_graphs(
    bundle: Bundle, scratch: Path, folder: Path, tuned: Sequence[Profile]
) -> list[dict[str, Any]]:
    """The graphs as TensorRT's parser reads them, beside links to the bundle's weights; what the worker has
    to know of each."""
    import onnx_ir as ir

    for name in bundle.manifest.files:
        if name.startswith("weights."):
            (scratch / name).symlink_to(bundle.path(name))
    weights = {name: x.sha256 for name, x in bundle.manifest.files.items() if name.startswith("weights.")}
    graphs = []
    for name in GRAPHS:
        model, path = ir.load(bundle.path(f"{name}.onnx")), scratch / f"{name}.onnx"
        dims: dict[str, list[int | str]] = {}
        ours: dict[str, str] = {}
        if name == "edit":
            for_tensorrt(model)
            ours = {str(node.name): node.op_type for node in model.graph if node.domain == DOMAIN}
            for value in model.graph.inputs:
                assert value.shape is not None
                dims[value.name or ""] = [d if isinstance(d, int) else str(d.value) for d in value.shape]
        ir.save(model, path)
        graphs.append(
            {
                "name": name,
                "model": str(path),
                "sha256": [files.sha256(path), weights],
                "plugins": ours,
                "shapes": [shapes(dims, profile, bundle.manifest) for profile in tuned] if dims else [{}],
                "target": str(folder / f"{name}.engine"),
            }
        )
    return graphs


@dataclass
class _Said:
    version: str
    contents: dict[str, ContentSpec]
    reused: list[str]


def _run(job: dict[str, Any], target: Target, scratch: Path, report: Progress) -> _Said:
    """The job in a worker; raises RuntimeFailure with what it could not do."""
    said, doing, failed = _Said("", {}, []), GRAPHS[0], None
    total = _STEPS * len(GRAPHS)
    with (scratch / "errors").open("w+") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-c", _MAIN],
            cwd=_empty(scratch),  # python looks for modules there first
            env=_environment(target.flavour, scratch),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert worker.stdin is not None and worker.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended already: what it said tells why
                worker.stdin.write(json.dumps(job))
                worker.stdin.close()
            for line in worker.stdout:
                message = json.loads(line)
                if "progress" in message:
                    doing, what, share = message["progress"]
                    done = _STEPS * (GRAPHS.index(doing) + share)
                    report(f"{doing}: {what}", int(done), total)
                elif "version" in message:
                    said.version = message["version"]
                elif "built" in message:
                    said.contents[message["built"]] = ContentSpec.model_validate(message["content"])
                    said.reused += [message["built"]] if message["reused"] else []
                else:
                    failed = message["failed"]
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
        errors.seek(0)
        printed = errors.read()
    if failed is None and (code != 0 or list(said.contents) != list(GRAPHS)):
        last = " ".join(printed.split())[-300:].rstrip(". ") or "it gave no reason"
        failed = f"{TITLES[target.flavour]} ended with code {code} at the {doing} engine: {last}"
    refused = re.search(r"^sige::(.+?)[. ]*$", printed, re.M)  # by a plugin
    if failed is not None and refused is not None:
        failed += f" ({refused[1]})"
    if failed is not None:
        raise RuntimeFailure(f"{failed}.")
    return said


def _environment(flavour: Flavour, scratch: Path) -> dict[str, str]:
    """This process's environment and modules, and a folder of links where TensorRT's libraries have their
    names without a version, by which one opens another; the packages of pip lack these."""
    links = scratch / "libraries"
    links.mkdir()
    found = importlib.util.find_spec(_LIBRARIES[flavour])
    for folder in (found.submodule_search_locations or []) if found else []:
        for versioned in Path(folder).glob("lib*.so.*"):
            name = f"{versioned.name.split('.so.')[0]}.so"
            if not versioned.with_name(name).exists() and not (links / name).exists():
                (links / name).symlink_to(versioned)
    paths = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    modules = [os.path.abspath(path) for path in sys.path]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths), "PYTHONPATH": os.pathsep.join(modules)}


def _empty(scratch: Path) -> Path:
    folder = scratch / "empty"
    folder.mkdir()
    return folder
