"""From a bundle to Core ML models: edit models with custom layers, and a dense record model."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sige_deploy import files
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.coreml import program
from sige_deploy.coreml.checker import require_sound
from sige_deploy.coreml.layers import Layer, read_layer
from sige_deploy.coreml.manifest import (
    FOLDER,
    MANIFEST,
    NAME,
    RECORD,
    ArraySpec,
    CoreMLManifest,
    GeometrySpec,
    LayerSpec,
    TensorSpec,
)
from sige_deploy.errors import BundleError, ExportError, RuntimeFailure
from sige_deploy.exporters.coreml_buckets import buckets
from sige_deploy.exporters.coreml_edit import edit_model
from sige_deploy.exporters.coreml_record import record_package
from sige_deploy.exporters.versions import version
from sige_deploy.manifest import FileSpec

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """Core ML models in their folder."""

    folder: Path
    manifest: CoreMLManifest


def build(bundle: str | os.PathLike[str] | Bundle, *, progress: Progress | None = None) -> Built:
    """Write the Core ML models of a bundle into its folder `coreml/float16/`; former ones there go when the
    new ones are whole.

    progress: called as progress(what, done, total). Raises ExportError with the node and the reason where
    Core ML cannot run the edit graph, BundleError, or RuntimeFailure without coremltools; then the bundle is
    as it was.
    """
    import onnx_ir as ir

    report = progress or (lambda what, done, total: None)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if importlib.util.find_spec("coremltools") is None:
        raise RuntimeFailure(
            "building Core ML models needs coremltools, which is not installed; run pip install "
            "'sige-deploy[coreml]'."
        )
    sizes = buckets(opened.manifest)
    context = int(opened.id[:7], 16)
    parent = opened.root / FOLDER
    folder = files.sibling(parent / NAME)
    edit = ir.load(opened.path("edit.onnx"))
    total = len(sizes) + 1
    try:
        folder.mkdir(parents=True)
        for k, rows in enumerate(sizes):
            report(f"edit model {k}", k, total)
            model = edit_model(edit, opened.manifest, rows, context)
            require_sound(model, f"edit-{k}.mlmodel")
            with files.replacing(folder / f"edit-{k}.mlmodel") as file:
                file.write(model.SerializeToString(deterministic=True))
        report("record model", len(sizes), total)
        manifest = _manifest(opened, folder, model, sizes, context, _record(opened, folder))
        with files.replacing(folder / MANIFEST) as file:
            file.write(manifest.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
        files.replace_folder(folder, parent / NAME)
    except OSError as error:
        raise BundleError(
            f"cannot write Core ML models to '{parent}' ({error.strerror}); make it writable and free space."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
    report("done", total, total)
    return Built(parent / NAME, manifest)


def _manifest(
    bundle: Bundle,
    folder: Path,
    model: Any,
    sizes: list[dict[str, int]],
    context: int,
    record: Mapping[str, Any],
) -> CoreMLManifest:
    """The manifest of the models in `folder`; model: the edit model of the last bucket; record: its fields of
    the record model."""
    layers = [read_layer(x) for x in model.neuralNetwork.layers if x.WhichOneof("layer") == "custom"]
    read = {str(value) for layer in layers for key, value in layer.parameters.items() if key in _NAMES}
    used = {layer.parameters.get("geometry") for layer in layers}
    levels = {f"rows.{spec.name}": spec.level for spec in bundle.manifest.spatial()}
    levels |= {o.rows: o.level for o in bundle.manifest.outputs}
    levels |= {cache.rows: cache.level for cache in bundle.manifest.caches if cache.rows}

    def tensors(features: Any) -> list[TensorSpec]:
        return [
            TensorSpec(name=x.name, channels=x.type.multiArrayType.shape[1], level=levels.get(x.name))
            for x in features
        ]

    return CoreMLManifest(
        bundle=bundle.id,
        context=context,
        buckets=sizes,
        inputs=tensors(model.description.input),
        outputs=tensors(model.description.output),
        arrays=[ArraySpec(name=c.name, shape=c.shape) for c in bundle.manifest.caches if c.name in read],
        geometries=[
            GeometrySpec(id=g.id, source=g.source, target=g.target, taps=g.taps, phases=g.phases)
            for g in bundle.geometries()
            if g.id in used
        ],
        active=sorted({layer.parameters["level"] for layer in layers if _reads_active(layer)}),
        layers=[
            LayerSpec(
                name=layer.name,
                class_=layer.class_name,
                op=layer.op,
                parameters={key: value for key, value in layer.parameters.items() if key != "rows"},
                weights=list(layer.weights),
            )
            for layer in layers
        ],
        files={
            path.relative_to(folder).as_posix(): FileSpec.of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        **record,
        producer={name: version(name) for name in ("sige-deploy", "coremltools", "onnx-ir")},
    )


def _record(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Write the record model, where Core ML can run it; the manifest's fields of it."""
    import onnx_ir as ir

    try:
        inputs, outputs = record_package(ir.load(bundle.path("record.onnx")), folder / RECORD)
    except ExportError as error:
        return {"record_refused": str(error).rstrip(".")}
    program.require_sound(program.Package(folder / RECORD))
    return {"record": RECORD, "record_inputs": inputs, "record_outputs": outputs}


_NAMES = ("base", "base_2", "k_base", "v_base", "scale_name", "shift_name")


def _reads_active(layer: Layer) -> bool:
    return layer.op == "Scatter" or "k" in layer.inputs
