"""sige-deploy export: a network into a bundle."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sige_deploy.cli.arguments import named
from sige_deploy.cli.console import amount, launched, note, progress, say, size
from sige_deploy.cli.export_pipeline import export_pipeline
from sige_deploy.errors import ExportError, InputError

if TYPE_CHECKING:
    import numpy as np

    from sige_deploy.config import SparseConfig

NETWORKS = {"gaugan": "label", "ddpm-church256": "sample", "street": "label"}  # name -> spatial input


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An .onnx file, or gaugan, ddpm-church256, street; left out with --diffusers.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help="Folder of the new bundle, or pipeline.", show_default=False),
    ] = None,
    diffusers: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A diffusers pipeline (Stable Diffusion 1.x, 2.x, XL): its UNet, VAE and text encoders.",
            show_default=False,
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(help="Of a pipeline's images, in pixels; by default, its own.", show_default=False),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="Of a pipeline's images, in pixels; by default, its own.", show_default=False),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Of a pipeline's UNet; by default 2, the halves of guidance.", show_default=False),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=SCALE]",
            help="A LoRA fused into a pipeline's weights (.safetensors). Once per LoRA.",
            show_default=False,
        ),
    ] = None,
    controlnet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A ControlNet exported into a pipeline's UNet.", show_default=False),
    ] = None,
    spatial: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Input that edits change, [B, C, H, W]. Once per such input."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=SHAPE:DTYPE",
            help="Shape and type of an input, e.g. image=1x3x256x256:float32; "
            "by default, the .onnx file's own.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights: a .pth or .safetensors file for gaugan, a diffusers folder for ddpm-church256; "
            "without, they are random."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file with fields of SparseConfig; the options below go before it."),
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option(help="Values that differ by more are edited; 0 by default.", show_default=False),
    ] = None,
    dilate: Annotated[
        int | None,
        typer.Option(help="Pixels by which the edited area grows; 1 by default.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Share of a block that makes its coarser pixel active; 0.3 by default.", show_default=False
        ),
    ] = None,
    level_dilate: Annotated[
        str | None,
        typer.Option(
            metavar="N|LEVEL=N,...",
            help="Growth at the other levels, in their pixels; 1 by default.",
            show_default=False,
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(
            metavar="N|LEVEL=N,...",
            help="Side of the blocks that become active; 1 by default.",
            show_default=False,
        ),
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(
            help="recorded or fresh normalisation statistics; recorded by default.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="as_given, or float16: half of the memory, for GPUs; as_given by default.",
            show_default=False,
        ),
    ] = None,
    dense_above: Annotated[
        float | None,
        typer.Option(
            help="Active share of the work above which an edit runs dense; 0.6 by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export a network into a bundle, a folder that records images and edits them; or a whole pipeline."""
    settings = _settings(
        config,
        eps=eps,
        dilate=dilate,
        threshold=threshold,
        level_dilate=_per_level(level_dilate, "--level-dilate"),
        granularity=_per_level(granularity, "--granularity"),
        statistics=statistics,
        precision=precision,
        dense_above=dense_above,
    )
    if diffusers is not None:
        given = {"--spatial": spatial, "--input": inputs, "--checkpoint": checkpoint}
        for option in (name for name, value in given.items() if value is not None):
            raise typer.BadParameter("a pipeline's own is taken; leave it out", param_hint=option)
        if out is not None:
            raise typer.BadParameter(f"with --diffusers the only argument is OUT; leave out '{model}'")
        loras = lora or []
        export_pipeline(
            diffusers, Path(model), settings, height, width, 2 if batch is None else batch, loras, controlnet
        )
        return
    if out is None:
        raise typer.BadParameter("say where to, e.g. net.sige", param_hint="OUT")
    options = {"--height": height, "--width": width, "--batch": batch, "--lora": lora}
    for option in (n for n, v in {**options, "--controlnet": controlnet}.items() if v is not None):
        raise typer.BadParameter("only for a pipeline; give it with --diffusers", param_hint=option)
    shapes = {name: _shape(name, text) for name, text in named(inputs or []).items()}
    if model in NETWORKS:
        _refuse_shapes(model, shapes)
    elif spatial is None:
        raise typer.BadParameter("name at least one input that edits change", param_hint="--spatial")
    elif checkpoint is not None:
        raise typer.BadParameter(
            f"an .onnx file has its weights; leave it out for {model}", param_hint="--checkpoint"
        )
    from sige_deploy.exporters.export import export as export_bundle

    with progress() as report:
        report("load the network", 0, 5)
        source, examples = (
            network(model, checkpoint) if model in NETWORKS else (model, _onnx_inputs(model, shapes))
        )
        names = spatial or [NETWORKS[model]]
        bundle = export_bundle(source, examples, out, names, settings, name=Path(model).stem, progress=report)
    manifest = bundle.manifest
    if model in ("gaugan", "ddpm-church256") and checkpoint is None:
        note("The weights are random: such a bundle measures speed. Give --checkpoint for pictures.")
    whole = sum(file.bytes for file in manifest.files.values())
    caches = sum(_bytes(c.shape, c.dtype) for c in manifest.caches)
    say(
        f"{out}: {manifest.name}, {amount(manifest.macs)} MACs, {amount(manifest.parameters)} parameters, "
        f"{len(manifest.levels)} levels, {len(manifest.islands)} dense islands; an edit makes "
        f"{launched(manifest.launches)}; {size(whole)} on disk, {size(caches)} of caches when recorded."
    )


def _settings(file: Path | None, **flags: Any) -> SparseConfig:
    from sige_deploy.config import SparseConfig

    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read configuration '{file}' ({error}); give a JSON file.") from error
        known = [f.name for f in fields(SparseConfig)]
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise InputError(
                f"configuration '{file}' must be a JSON object with fields out of {', '.join(known)}."
            )
    return SparseConfig(**{**values, **{name: value for name, value in flags.items() if value is not None}})


def _per_level(text: str | None, option: str) -> int | dict[str, int] | None:
    """2 of "2"; {"64x64": 2} of "64x64=2"."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return int(text)
        return {level: int(count) for level, count in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither N nor LEVEL=N,LEVEL=N", param_hint=option) from None


def _shape(name: str, text: str) -> tuple[tuple[int, ...], str]:
    match = re.fullmatch(r"((?:\d+(?:x\d+)*)?)(?::(\w+))?", text)
    if match is None:
        raise typer.BadParameter(f"'{name}={text}' is not NAME=1x3x256x256:float32", param_hint="--input")
    return tuple(int(n) for n in match[1].split("x") if n), match[2] or "float32"


def _refuse_shapes(model: str, shapes: dict[str, Any]) -> None:
    if shapes:
        raise typer.BadParameter(f"the inputs of {model} are fixed; leave it out", param_hint="--input")


def network(name: str, checkpoint: Path | None) -> tuple[Any, dict[str, np.ndarray]]:
    """(torch module, example inputs) of a network that this package knows."""
    import numpy as np

    try:
        import torch
    except ImportError as error:
        raise ExportError(f"exporting {name} needs torch; run pip install 'sige-deploy[export]'.") from error
    torch.manual_seed(0)
    if name == "ddpm-church256":
        from sige_deploy.models import ddpm

        module = ddpm.church256() if checkpoint is None else ddpm.load(checkpoint)
        return module, {"sample": np.zeros((1, 3, 256, 256), np.float32), "timestep": np.array([500])}
    if name == "gaugan":
        from sige_deploy.models import gaugan

        gan = gaugan.GauGAN().eval() if checkpoint is None else gaugan.load_official(checkpoint)
    else:
        from sige_deploy.demo import load_street

        gan = load_street(checkpoint)
    return gan, {"label": np.zeros((1, gan.semantic_channels, *gan.image_size), np.float32)}


def _onnx_inputs(path: str, shapes: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, np.ndarray]:
    """Zeros of the given shapes, and of the file's own for inputs that were not given."""
    import numpy as np

    if not Path(path).is_file():
        raise ExportError(f"there is no model '{path}'; give an .onnx file, or one of {', '.join(NETWORKS)}.")
    from sige_deploy.exporters.onnx import load

    examples = {}
    for value in load(path).graph.inputs:
        shape = None if value.shape is None else [n if isinstance(n, int) else None for n in value.shape]
        if value.name in shapes:
            size, dtype = shapes[value.name]
        elif shape is None or None in shape or value.dtype is None:
            raise ExportError(
                f"input '{value.name}' of {path} has no fixed shape; say which, e.g. "
                f"--input {value.name}=1x3x256x256:float32."
            )
        else:
            size, dtype = tuple(n for n in shape if n is not None), str(np.dtype(value.dtype.numpy()))
        try:
            examples[str(value.name)] = np.zeros(size, dtype)
        except TypeError:
            raise ExportError(f"'{dtype}' is no data type; use float32, float16, int64, ...") from None
    unknown = [name for name in shapes if name not in examples]
    if unknown:
        raise ExportError(f"{path} has no input '{unknown[0]}'; its inputs are {', '.join(examples)}.")
    return examples


def _bytes(shape: list[int], dtype: str) -> int:
    import math

    import numpy as np

    return math.prod(shape) * np.dtype(dtype).itemsize
