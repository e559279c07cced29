"""From a torch module or an .onnx file to a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.bundle import Bundle, write_bundle
from sige_deploy.config import SparseConfig
from sige_deploy.errors import ExportError
from sige_deploy.geometry import geometries_to_tensors

if TYPE_CHECKING:
    import onnx_ir as ir

    from sige_deploy.graph.translate import Translation

Progress = Callable[[str, int, int], None]


def export(
    model: Any,
    example_inputs: Mapping[str, Any],
    path: str | os.PathLike[str],
    spatial: Sequence[str],
    config: SparseConfig | None = None,
    *,
    free: Sequence[str] = (),
    name: str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a network into a bundle folder.

    model: a torch.nn.Module (run in eval mode), or the path of an .onnx file of any framework.
    example_inputs: names of forward()'s arguments (or ONNX inputs) -> tensors; their shapes and dtypes are
    the bundle's (float32 ones become float16 if the configuration's precision is "float16").
    spatial: names of the inputs that edits change, each [B, C, H, W] or [C, H, W].
    free: names of other inputs that an edit may change although they have an effect on every pixel: the edit
    applies them to active pixels alone. (What is read through cross-attention is free anyway.)
    progress: called as progress(stage, done, total) before every stage.
    Raises ExportError with the reason when an input does not fit or the network cannot be converted. Nothing
    is left at ``path`` unless the export is complete.
    """
    _require_packages()
    from sige_deploy.exporters.describe import describe
    from sige_deploy.exporters.graphs import build_edit, extend_record, inlined, restore_weights
    from sige_deploy.exporters.onnx import load
    from sige_deploy.exporters.precision import half_graph, half_inputs, traced_for_half
    from sige_deploy.exporters.torch import as_arrays, to_onnx
    from sige_deploy.graph.normalise import expand_composites, prepare
    from sige_deploy.graph.norms import fold_norms
    from sige_deploy.graph.projections import join_projections
    from sige_deploy.graph.residuals import merge_over_residuals
    from sige_deploy.graph.translate import translate

    config = config or SparseConfig()
    report = progress or (lambda stage, done, total: None)
    report("read the network", 0, 5)
    from_file = isinstance(model, (str, os.PathLike))
    half = config.precision == "float16"
    examples = half_inputs(example_inputs) if half else example_inputs
    arrays = as_arrays(examples)
    cast = half and from_file
    if from_file:
        loaded = load(model)
    elif half:
        loaded, cast = traced_for_half(model, example_inputs)
    else:
        loaded = to_onnx(model, examples)
    _check_inputs(loaded, arrays, spatial, half)
    _check_free(free, arrays, spatial)
    report("fold constants", 1, 5)
    dense = prepare(loaded, {n: a.shape for n, a in arrays.items()})
    join_projections(dense, spatial)
    fold_norms(dense)
    merge_over_residuals(dense, spatial)
    if cast:
        half_graph(dense)
    _check_names(dense, spatial)
    record = dense.clone()
    expand_composites(record)
    report("rewrite to rows", 2, 5)
    translation = translate(record, spatial, config, free)
    edit = build_edit(translation)
    extend_record(record, translation)
    restore_weights(dense, translation)
    restore_weights(record, translation)
    stem = name or (Path(model).stem if from_file else type(model).__name__)
    report("write the bundle", 3, 5)
    with write_bundle(path) as writer:
        models = {"dense": dense, "record": record, "edit": edit, "edit_inlined": inlined(edit)}
        _write_files(writer.folder, models, translation)
        report("hash the files", 4, 5)
        bundle = writer.finish(describe(stem, dense, edit, translation, spatial, config))
    report("done", 5, 5)
    return bundle


def _write_files(folder: Path, models: dict[str, ir.Model], translation: Translation) -> None:
    import onnx_ir as ir
    from safetensors.numpy import save_file

    from sige_deploy.exporters.describe import used_geometries
    from sige_deploy.exporters.weights import write_weights

    for model in models.values():
        model.metadata_props.clear()
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
    write_weights(models.values(), folder)
    for stem, model in models.items():
        ir.save(model, folder / f"{stem}.onnx")
    save_file(geometries_to_tensors(used_geometries(translation)), folder / "geometry.safetensors")


def _check_inputs(
    model: ir.Model, arrays: Mapping[str, np.ndarray], spatial: Sequence[str], half: bool
) -> None:
    names = [v.name or "" for v in model.graph.inputs]
    listed = f"the network's inputs are {', '.join(names)}"
    missing = [n for n in names if n not in arrays]
    extra = [n for n in arrays if n not in names]
    if missing or extra:
        said = [f"misses {', '.join(map(str, missing))}"] if missing else []
        said += [f"has {', '.join(extra)}, which the network does not use"] if extra else []
        raise ExportError(f"example_inputs {' and '.join(said)}; {listed}.")
    if "mask" in names:
        raise ExportError(
            "The network has an input named 'mask', as Session.edit's own argument is; rename the input."
        )
    if not spatial:
        raise ExportError(
            "No spatial input is named; give the names of the inputs that edits change in spatial=[...]."
        )
    for n in spatial:
        if n not in arrays:
            raise ExportError(f"Spatial input '{n}' is not an input of the network; {listed}.")
        if arrays[n].ndim not in (3, 4):
            raise ExportError(
                f"Spatial input '{n}' has shape {list(arrays[n].shape)}; expected [B, C, H, W] or [C, H, W]."
            )
    for value in model.graph.inputs:
        if value.dtype is None:
            continue
        given, wanted = arrays[value.name or ""].dtype, np.dtype(value.dtype.numpy())
        if given != (np.float16 if half and wanted == np.float32 else wanted):
            raise ExportError(f"Example input '{value.name}' is {given}; the network takes {wanted}.")


def _check_free(free: Sequence[str], arrays: Mapping[str, np.ndarray], spatial: Sequence[str]) -> None:
    for n in free:
        if n not in arrays or n in spatial:
            others = ", ".join(name for name in arrays if name not in spatial) or "none"
            raise ExportError(
                f"Free input '{n}' is not an input besides the spatial ones, which are {others}."
            )


def _check_names(model: ir.Model, spatial: Sequence[str]) -> None:
    for value in model.graph.inputs:
        if not value.uses() and value.name in spatial:
            raise ExportError(f"Spatial input '{value.name}' does not reach any output; leave it out.")


def _require_packages() -> None:
    try:
        import onnx
        import onnx_ir
        import onnxscript
    except ImportError as error:
        raise ExportError(
            f"Exporting needs {error.name}, which is not installed; run pip install 'sige-deploy[export]'."
        ) from error
    del onnx, onnx_ir, onnxscript
