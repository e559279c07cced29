"""sige-deploy compare: an edit against dense, or an engine against another one or the original network."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sige_deploy.cli.arguments import (
    BundleArgument,
    Device,
    Json,
    Mask,
    Range,
    Threads,
    checked_names,
    opened,
    read_inputs,
    read_mask,
    recorded,
    value_range,
)
from sige_deploy.cli.console import busy, decibel, ms, say, share, show, show_json
from sige_deploy.errors import InputError, RuntimeFailure

if TYPE_CHECKING:
    import numpy as np

    from sige_deploy.bundle import Bundle
    from sige_deploy.comparator import Agreement
    from sige_deploy.compare import Comparison
    from sige_deploy.original import Original
    from sige_deploy.runtimes.base import Runtime


class Shape(str, Enum):
    """Of a random edit."""

    square = "square"
    blobs = "blobs"


class Against(str, Enum):
    """The other side."""

    dense = "dense"
    onnxruntime = "onnxruntime"
    torch = "torch"
    tensorrt = "tensorrt"


class Engine(str, Enum):
    """Of the session."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class Graph(str, Enum):
    """Of the bundle."""

    edit = "edit"
    record = "record"
    dense = "dense"


def compare(
    bundle: BundleArgument,
    load: Annotated[Path | None, typer.Option(help="Recorded state that record saved.")] = None,
    original: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An input to record, in place of --load. Once per input.",
            callback=checked_names,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An edited input; those left out are as recorded.",
            callback=checked_names,
        ),
    ] = None,
    mask: Mask = None,
    area: Annotated[
        float, typer.Option(min=0, max=100, help="Per cent of the image that a random edit changes.")
    ] = 5.0,
    shape: Annotated[Shape, typer.Option(help="Of a random edit.")] = Shape.square,
    engine: Annotated[Engine, typer.Option(help="Engine of the session.")] = Engine.onnxruntime,
    device: Device = "cpu",
    against: Annotated[
        Against,
        typer.Option(
            help="dense: the dense network on the same engine. onnxruntime: ONNX Runtime's own operators on "
            "the CPU. torch: the original network. tensorrt: the bundle's engines."
        ),
    ] = Against.dense,
    graph: Annotated[
        Graph | None,
        typer.Option(help="What both sides run: edit by default, dense with --model.", show_default=False),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare every value that the graph computes.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The original network: MODULE:FACTORY or FILE.py:FACTORY, a function that returns a "
            "torch.nn.Module; a name that export takes; or an .onnx file, for --against onnxruntime.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of a --model that export takes by name.")
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(
            min=0, help="Errors up to this are none; 1e-4, in half precision 2e-2.", show_default=False
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Nor are errors up to this share of the value; 1e-3, in half precision 2e-2.",
            show_default=False,
        ),
    ] = None,
    range_: Range = "-1,1",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Compare an edit, always run sparse, with the dense network on the same input; or, with --against, what
    an engine computes with what another one or the original network does.

    Without --load and --original, inputs and edit are random.
    """
    from sige_deploy import compare as compared
    from sige_deploy.workload import make_edit, make_inputs

    if load is not None and original:
        raise typer.BadParameter("give --load or --original, not both", param_hint="--load")
    extra = {"--graph": graph, "--layers": layers or None, "--model": model, "--atol": atol, "--rtol": rtol}
    for option, value in extra.items():
        if against is Against.dense and value is not None:
            raise typer.BadParameter("goes with --against onnxruntime, torch or tensorrt", param_hint=option)
    chosen = _graph(against, graph, model, layers, engine)
    scale = value_range(range_)
    with opened(bundle, device, threads, sparse=True, engine=engine.value) as (checked, session, runtime):
        manifest = checked.manifest
        if load is not None:
            with busy("load"):
                session.load(load)
            before, _ = recorded(load, checked)
        else:
            before = read_inputs(manifest.inputs, original or [], scale)
            before = before if original else make_inputs(manifest)
        if inputs:
            after = read_inputs(manifest.inputs, inputs, scale, before)
        else:
            after, _ = make_edit(manifest, before, area / 100, shape.value)
        edited = read_mask(checked, mask)
        if against is Against.dense:
            if load is None:
                with busy("record"):
                    session.record(**before)
            with busy("edit and dense"):
                result = compared.compare(session, runtime, before, after, edited)
            _show_comparison(result, json)
            return
        other = _Other(checked, against, model, checkpoint, device, threads)
        with busy("compare"):
            agreement = other.compare(runtime, chosen, layers, before, after, edited, atol, rtol)
    _show_agreement(agreement, json)


def _graph(
    against: Against, graph: Graph | None, model: str | None, layers: bool, engine: Engine
) -> Literal["edit", "record", "dense"]:
    """The graph to compare; raises BadParameter (usage) where options do not go together."""
    if against is Against.torch and model is None:
        raise typer.BadParameter("say with --model which network", param_hint="--against")
    if model is not None and against is Against.tensorrt:
        raise typer.BadParameter("goes with --against torch or onnxruntime", param_hint="--model")
    if model is not None and (against is Against.onnxruntime) != model.endswith(".onnx"):
        raise typer.BadParameter(
            "an .onnx file goes with --against onnxruntime, any other network with --against torch",
            param_hint="--model",
        )
    if model is not None and graph not in (None, Graph.dense):
        raise typer.BadParameter("the original network has the graph dense alone", param_hint="--graph")
    if layers and Against.tensorrt.value in (against.value, engine.value):
        raise typer.BadParameter(
            "engines of TensorRT do not give their layers; compare without it, or two other engines",
            param_hint="--layers",
        )
    if graph is not None:
        return graph.value
    return "edit" if model is None else "dense"


class _Other:
    """The other side of a comparison."""

    def __init__(
        self,
        bundle: Bundle,
        against: Against,
        model: str | None,
        checkpoint: Path | None,
        device: str,
        threads: int | None,
    ) -> None:
        self._bundle, self._against, self._device, self._threads = bundle, against, device, threads
        self._original = None if model is None else self._load(model, checkpoint)

    def compare(
        self,
        runtime: Runtime,
        graph: Literal["edit", "record", "dense"],
        layers: bool,
        before: dict[str, np.ndarray],
        after: dict[str, np.ndarray],
        mask: np.ndarray | None,
        atol: float | None,
        rtol: float | None,
    ) -> Agreement:
        from sige_deploy.comparator import Tolerance, compare_layers, compare_outputs
        from sige_deploy.layers import OnnxRuntimeSide

        bundle, threads = self._bundle, self._threads
        usual = Tolerance.of(bundle.manifest)
        tolerance = Tolerance(
            usual.absolute if atol is None else atol, usual.relative if rtol is None else rtol
        )
        if layers:
            ours = OnnxRuntimeSide.of(bundle, self._device, threads)
            theirs = self._original or OnnxRuntimeSide("onnxruntime cpu", threads)
            return compare_layers(bundle, ours, theirs, graph, before, after, mask, tolerance)
        other = self._original or self._engine()
        return compare_outputs(bundle, runtime, other, graph, before, after, mask, tolerance)

    def _engine(self) -> Runtime:
        from sige_deploy.layers import reference
        from sige_deploy.runtimes.base import create

        if self._against is Against.onnxruntime:
            return reference(self._bundle, self._threads)
        device = self._device if self._device.startswith("cuda") else "cuda:0"
        return create(self._against.value, self._bundle, device, self._threads)

    def _load(self, model: str, checkpoint: Path | None) -> Original:
        from sige_deploy.cli.export import NETWORKS, network
        from sige_deploy.original import OnnxOriginal, TorchOriginal, load_module

        if checkpoint is not None and model not in NETWORKS:
            raise InputError(f"'{model}' has its weights; leave --checkpoint out.")
        if model.endswith(".onnx"):
            if not Path(model).is_file():
                raise InputError(f"there is no file '{model}'; give the .onnx file that was exported.")
            return OnnxOriginal(self._bundle, Path(model), self._threads)
        module = network(model, checkpoint)[0] if model in NETWORKS else load_module(model)
        return TorchOriginal(self._bundle, module)


def _show_agreement(agreement: Agreement, json: bool) -> None:
    """Prints it; raises RuntimeFailure where anything is beyond the tolerance."""
    first, tolerance = agreement.first, agreement.tolerance
    if json:
        show_json({**asdict(agreement), "first": None if first is None else first.name})
    else:
        layers = any(value.operator for value in agreement.values)
        columns = ["layer" if layers else "output", *(["operator"] if layers else [])]
        rows: list[list[Any]] = []
        for value in agreement.values:
            errors = [f"{e:.3g}" for e in (value.max_absolute, value.mean_absolute, value.max_relative)]
            named = [value.name, value.operator] if layers else [value.name]
            rows.append([*named, *errors, "" if value.within else "differs"])
        show(
            f"The {agreement.graph} graph: {agreement.ours} against {agreement.theirs}",
            [*columns, ">max error", ">mean error", ">max relative", ""],
            rows,
        )
    beyond = sum(not value.within for value in agreement.values)
    limits = f"{tolerance.absolute:g} and {tolerance.relative:g} of the value"
    if first is not None:
        of = f" ({first.operator})" if first.operator else ""
        raise RuntimeFailure(
            f"{beyond} of {len(agreement.values)} values differ by more than {limits}, the first of them "
            f"'{first.name}'{of}, by up to {first.max_absolute:.3g}."
        )
    if not json:
        say(f"{len(agreement.values)} values differ by no more than {limits}")


def _show_comparison(result: Comparison, json: bool) -> None:
    report = result.report
    if json:
        show_json({"report": asdict(report), "outputs": [asdict(d) for d in result.differences]})
        return
    rows = [
        [
            d.output,
            f"{d.max_error:.3g}",
            f"{d.mean_error:.3g}",
            decibel(d.psnr),
            decibel(d.psnr_inside),
            decibel(d.psnr_outside),
        ]
        for d in result.differences
    ]
    columns = ["output", ">max error", ">mean error", ">PSNR", ">PSNR inside", ">PSNR outside"]
    show("Edit against dense", columns, rows)
    say(f"{report.path} edit, {share(report.active_fraction)} of the work, {ms(report.milliseconds)} ms")
