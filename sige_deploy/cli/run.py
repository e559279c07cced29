"""sige-deploy run: record a picture with a diffusion pipeline, then edit it by strokes, masks and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sige_deploy.cli.arguments import Device, Json, Threads
from sige_deploy.cli.console import decibel, ms, say, share, show, show_json

if TYPE_CHECKING:
    import numpy as np

    from sige_deploy.pipelines.edit import Edit
    from sige_deploy.pipelines.pipeline import DiffusionPipeline
    from sige_deploy.pipelines.recording import Recording
    from sige_deploy.runs.tiers import Budget

GB = 10**9

group = typer.Typer(no_args_is_help=True, help="Record a diffusion pipeline's run, then edit its picture.")

PipelineArgument = Annotated[
    Path, typer.Argument(metavar="PIPELINE", help="Folder that export --diffusers wrote.", show_default=False)
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a recorded run.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="File for the edited picture.", show_default=False)]
Save = Annotated[
    Path | None,
    typer.Option(
        help="Commit the edit, and write the run to this folder; RUN stays, unless it is the same.",
        show_default=False,
    ),
]
Mask = Annotated[Path | None, typer.Option(help="What may change, a black and white picture or .npy.")]
Prompt = Annotated[str | None, typer.Option(help="By default, the run's.", show_default=False)]
Negative = Annotated[str | None, typer.Option(help="By default, the run's.", show_default=False)]
Guidance = Annotated[float | None, typer.Option(help="By default, the run's.", show_default=False)]
Control = Annotated[Path | None, typer.Option(help="Another picture for the ControlNet.", show_default=False)]
Feather = Annotated[int, typer.Option(help="Width of the soft edge inside the mask, in pixels.")]
HostMemory = Annotated[float, typer.Option(help="GB of host memory for states.")]
DiskMemory = Annotated[float, typer.Option(help="GB of temporary files beside the run, for more states.")]
DeviceMemory = Annotated[float, typer.Option(help="GB of the device's memory for states.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps that run dense, to find the region.")]
Keep = Annotated[float, typer.Option(help="Share of the steps before, left as recorded: the layout stays.")]
Grow = Annotated[int, typer.Option(help="Latents by which the region found is widened.")]
Threshold = Annotated[
    float | None,
    typer.Option(help="Of the region, a share of the difference; by default, Otsu's.", show_default=False),
]


@group.command()
def record(
    pipeline: PipelineArgument,
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    picture: Annotated[
        Path | None, typer.Option(help="Picture to record; by default, the prompt's.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 50,
    scheduler: Annotated[
        str | None, typer.Option(help="ddim, euler, dpm++2m or lcm; by default, the pipeline's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    negative: Annotated[str, typer.Option(help="What the picture does not show.")] = "",
    guidance: Annotated[float | None, typer.Option(help="By default 7.5, with lcm 1.")] = None,
    strength: Annotated[float, typer.Option(help="Of a picture, the share of the steps to record.")] = 1.0,
    control: Annotated[Path | None, typer.Option(help="Picture for the ControlNet.")] = None,
    control_scale: Annotated[float, typer.Option(help="Weight of the ControlNet.")] = 1.0,
    storage: Annotated[str, typer.Option(help="How states are kept: exact, float16 or int8.")] = "exact",
    host_memory: HostMemory = 8.0,
    device_memory: DeviceMemory = 2.0,
    disk_memory: DiskMemory = 0.0,
    out: Annotated[Path | None, typer.Option(help="File for the picture.", show_default=False)] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Run the whole network for every step, and write what edits need to the folder RUN."""
    from sige_deploy.pipelines.progress import bar

    _check_places(out, run)
    budget = _budget(run, device_memory, host_memory, disk_memory, storage)
    given, followed = (_picture(path) for path in (picture, control))
    with _opened(pipeline, device, threads) as opened, bar() as on_step:
        recording = opened.record(
            prompt, picture=given, steps=steps, scheduler=scheduler, seed=seed, negative=negative,
            guidance=guidance, strength=strength, control=followed, control_scale=control_scale,
            budget=budget, on_step=on_step,
        )  # fmt: skip
        recording.save(run)
        _say_recorded(recording)
        if out is not None:
            _write(out, recording.picture)
    say(f"saved to {run}")


@group.command()
def sdedit(
    pipeline: PipelineArgument,
    run: RunArgument,
    picture: Annotated[Path, typer.Option(help="The recorded picture, painted over.", show_default=False)],
    out: Out,
    mask: Mask = None,
    strength: Annotated[float, typer.Option(help="Share of the noise; less keeps more of the paint.")] = 0.8,
    prompt: Prompt = None,
    negative: Negative = None,
    guidance: Guidance = None,
    control: Control = None,
    feather: Feather = 4,
    save: Save = None,
    host_memory: HostMemory = 8.0,
    device_memory: DeviceMemory = 2.0,
    disk_memory: DiskMemory = 0.0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Make painted strokes or pasted pixels part of the picture."""
    from sige_deploy.pipelines.progress import bar

    _check_places(out, save)
    painted = _picture(picture)
    budget = _budget(run, device_memory, host_memory, disk_memory)
    with _loaded(pipeline, run, device, threads, budget) as recording, bar() as on_step:
        edit = recording.sdedit(
            painted, _mask(recording, mask), strength=strength, prompt=prompt, negative=negative,
            guidance=guidance, control=_picture(control), feather=feather, on_step=on_step,
        )  # fmt: skip
        _finish(recording, edit, out, save)


@group.command()
def inpaint(
    pipeline: PipelineArgument,
    run: RunArgument,
    mask: Annotated[Path, typer.Option(help="What to fill, a black and white picture or .npy.")],
    out: Out,
    prompt: Prompt = None,
    strength: Annotated[float, typer.Option(help="Share of the noise; 1 keeps nothing.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of the noise; by default, the run's.")] = None,
    negative: Negative = None,
    guidance: Guidance = None,
    control: Control = None,
    feather: Feather = 4,
    save: Save = None,
    host_memory: HostMemory = 8.0,
    device_memory: DeviceMemory = 2.0,
    disk_memory: DiskMemory = 0.0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Fill a region by a prompt."""
    from sige_deploy.pipelines.progress import bar

    _check_places(out, save)
    budget = _budget(run, device_memory, host_memory, disk_memory)
    with _loaded(pipeline, run, device, threads, budget) as recording, bar() as on_step:
        region = _mask(recording, mask)
        assert region is not None
        edit = recording.inpaint(
            region, prompt, strength=strength, seed=seed, negative=negative, guidance=guidance,
            control=_picture(control), feather=feather, on_step=on_step,
        )  # fmt: skip
        _finish(recording, edit, out, save)


@group.command("text-edit")
def text_edit(
    pipeline: PipelineArgument,
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="What the picture shall show.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File for the edited picture.", show_default=False)] = None,
    mask: Mask = None,
    union: Annotated[bool, typer.Option("--union", help="Add the region found to the mask.")] = False,
    warmup: Warmup = 0.2,
    keep: Keep = 0.0,
    threshold: Threshold = None,
    grow: Grow = 0,
    preview: Annotated[
        Path | None, typer.Option(help="File for the region found; without --out, nothing is edited.")
    ] = None,
    negative: Negative = None,
    guidance: Guidance = None,
    feather: Feather = 4,
    save: Save = None,
    host_memory: HostMemory = 8.0,
    device_memory: DeviceMemory = 2.0,
    disk_memory: DiskMemory = 0.0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Change the picture to another prompt where the two differ."""
    from sige_deploy.pipelines.pictures import to_pixels
    from sige_deploy.pipelines.progress import bar

    if out is None and (preview is None or save is not None):
        raise typer.BadParameter("give --out, or --preview alone to see the region", param_hint="--out")
    if union and mask is None:
        raise typer.BadParameter("goes with --mask", param_hint="--union")
    _check_places(out, save)
    _check_places(preview, None)
    budget = _budget(run, device_memory, host_memory, disk_memory)
    with _loaded(pipeline, run, device, threads, budget) as recording, bar() as on_step:
        draft = None
        if preview is not None or mask is None or union:
            draft = recording.draft(
                prompt, warmup=warmup, keep=keep, negative=negative, guidance=guidance, on_step=on_step
            )
        if preview is not None and draft is not None:
            found = draft.mask(threshold, grow)
            shown = to_pixels(found, recording.parts.factor)[..., None].repeat(3, axis=2)
            _write(preview, shown.astype("uint8") * 255)
            say(f"region: {share(float(found.mean()))} of the picture")
        if out is None:
            return
        edit = recording.text_edit(
            prompt, _mask(recording, mask), union=union, draft=draft, keep=keep, threshold=threshold,
            grow=grow, negative=negative, guidance=guidance, feather=feather, on_step=on_step,
        )  # fmt: skip
        _finish(recording, edit, out, save)


@group.command("show")
def show_run(run: RunArgument, json_: Json = False) -> None:
    """What a recorded run is of; its states are not read."""
    from sige_deploy.runs.saved import read_index

    index = read_index(run)
    steps = index["tracks"]["unet"]["steps"] if "unet" in index["tracks"] else []
    kept = Counter(step["storage"] if step["caches"] else "recorded anew" for step in steps)
    whole = {**index["key"], "states": dict(kept), "committed": any(step["edited"] for step in steps)}
    if json_:
        show_json(whole)
        return
    show("Run", ["", ""], [[name, _text(value)] for name, value in whole.items()])


@group.command()
def drift(
    pipeline: PipelineArgument,
    run: RunArgument,
    host_memory: HostMemory = 8.0,
    device_memory: DeviceMemory = 2.0,
    disk_memory: DiskMemory = 0.0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """How far committed edits have brought a run from a fresh record; takes as long as recording."""
    budget = _budget(run, device_memory, host_memory, disk_memory)
    with _loaded(pipeline, run, device, threads, budget) as recording:
        found = recording.drift()
    lines = [[name, decibel(one.outputs), decibel(one.caches)] for name, one in found.items()]
    show("PSNR of the worst array", ["network", ">outputs", ">states"], lines)


@contextmanager
def _opened(folder: Path, device: str, threads: int | None) -> Iterator[DiffusionPipeline]:
    from sige_deploy.pipelines.pipeline import open_pipeline

    with open_pipeline(folder, device, threads=threads) as pipeline:
        yield pipeline


@contextmanager
def _loaded(folder: Path, run: Path, device: str, threads: int | None, budget: Budget) -> Iterator[Recording]:
    with _opened(folder, device, threads) as pipeline, pipeline.load(run, budget=budget) as recording:
        yield recording


def _budget(run: Path, device: float, host: float, disk: float, storage: str = "exact") -> Budget:
    from sige_deploy.runs.tiers import Budget

    sizes = {"device": device, "host": host, "disk": disk}
    for name, value in sizes.items():
        if not 0 <= value < 1e9:
            option = f"--{name}-memory"
            raise typer.BadParameter(f"{value:g} is no count of GB, 0 or more", param_hint=option)
    room = {name: int(value * GB) for name, value in sizes.items()}
    return Budget(**room, folder=run.absolute().parent, storage=storage)  # type: ignore[arg-type]


def _check_places(out: Path | None, run: Path | None) -> None:
    """Whether a picture and a run can be written there, before minutes are spent on them."""
    from sige_deploy.images import check_picture_path
    from sige_deploy.runs.saved import check_target

    if out is not None:
        check_picture_path(out)
    if run is not None:
        check_target(run)


def _picture(path: Path | None) -> np.ndarray | None:
    from sige_deploy.images import read_picture

    return None if path is None else read_picture(path)


def _mask(recording: Recording, path: Path | None) -> np.ndarray | None:
    from sige_deploy.images import read_mask

    return None if path is None else read_mask(path, recording.parts.size)


def _write(path: Path, picture: np.ndarray) -> None:
    from sige_deploy.images import save_picture

    save_picture(path, picture)
    say(f"wrote {path}")


def _say_recorded(recording: Recording) -> None:
    tiers = Counter(recording.run.tracks["unet"].tiers)
    where = ", ".join(f"{count} {'not kept' if tier == 'none' else tier}" for tier, count in tiers.items())
    say(f"recorded {len(recording.steps)} steps of {recording.sampler.name}; states: {where}")


def _finish(recording: Recording, edit: Edit, out: Path, save: Path | None) -> None:
    totals = edit.totals
    lines = [["edited pixels", share(float(edit.mask.mean()))]]
    lines += [[f"{path} steps", str(count)] for path, count in totals.paths.items()]
    lines += [["mean share of the work", share(totals.fraction)]] if totals.paths else []
    lines += [["warm-up / ms", ms(totals.warmup)]] if totals.warmup else []
    lines += [["network / ms", ms(totals.milliseconds)]]
    show("Edit", ["", ">"], lines)
    _write(out, edit.picture)
    if save is not None:
        edit.commit()
        recording.save(save)
        say(f"committed to {save}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return str(value)
