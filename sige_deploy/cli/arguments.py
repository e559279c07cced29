"""Arguments that several verbs share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sige_deploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sige_deploy.bundle import Bundle
    from sige_deploy.manifest import InputSpec
    from sige_deploy.runtimes.base import Runtime
    from sige_deploy.session import Session


def named(texts: Sequence[str]) -> dict[str, str]:
    """{"image": "a.png"} of ["image=a.png"]; raises BadParameter (usage)."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE")
        if name in pairs:
            raise typer.BadParameter(f"'{name}' is given twice")
        pairs[name] = value
    return pairs


def checked_names(texts: list[str] | None) -> list[str]:
    """Callback of options NAME=VALUE: they are checked before anything is opened."""
    named(texts or [])
    return texts or []


def value_range(text: str) -> tuple[float, float]:
    """(-1.0, 1.0) of "-1,1"; raises BadParameter (usage)."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not LOW,HIGH", param_hint="--range") from None
    if not low < high:
        raise typer.BadParameter(f"{low:g} is not below {high:g}", param_hint="--range")
    return low, high


BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder that export wrote.", show_default=False)
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input: a .npy or .npz file, a picture, or a number. Once per input.",
        show_default=False,
        callback=checked_names,
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(help="Edited pixels, a black and white picture or .npy; by default, what differs."),
]
Range = Annotated[
    str, typer.Option("--range", metavar="LOW,HIGH", help="What black and white are to the network.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default, all cores.", show_default=False)]
Device = Annotated[str, typer.Option(help="cpu, or cuda:0, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def read_inputs(
    specs: Sequence[InputSpec],
    texts: Sequence[str],
    scale: tuple[float, float],
    recorded: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The inputs by name, read from what the user wrote; those left out are as recorded, if anything is."""
    from sige_deploy.images import read_value

    by_name = {spec.name: spec for spec in specs}
    given = named(texts)
    for name in given:
        if name not in by_name:
            known = ", ".join(f"'{n}'" for n in by_name)
            raise InputError(f"the network has no input '{name}'; its inputs are {known}.")
    arrays = {name: read_value(by_name[name], text, scale) for name, text in given.items()}
    return {**(recorded or {}), **arrays}


def recorded(path: Path, bundle: Bundle) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, outputs) of a recorded state that a session has loaded, and so checked, before."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        inputs = {spec.name: file.get_tensor(f"input.{spec.name}") for spec in bundle.manifest.inputs}
        outputs = {spec.name: file.get_tensor(f"output.{spec.name}") for spec in bundle.manifest.outputs}
    return inputs, outputs


def read_mask(bundle: Bundle, path: Path | None) -> np.ndarray | None:
    """The mask file at the first spatial input's size."""
    from sige_deploy import images
    from sige_deploy.compare import image_size

    return None if path is None else images.read_mask(path, image_size(bundle.manifest.spatial()[0]))


@contextmanager
def opened(
    path: Path,
    device: str = "cpu",
    threads: int | None = None,
    sparse: bool = False,
    engine: str | None = None,
) -> Iterator[tuple[Bundle, Session, Runtime]]:
    """A bundle, a session on it, and the engine under both. sparse: no edit runs dense, however large.
    engine: as `sige_deploy.open` takes the runtime."""
    from sige_deploy.bench import always_sparse
    from sige_deploy.bundle import open_bundle
    from sige_deploy.runtimes.base import create
    from sige_deploy.session import Session

    bundle = open_bundle(path)
    bundle = always_sparse(bundle) if sparse else bundle
    runtime = create(engine, bundle, device, threads)
    with Session(bundle, runtime) as session:
        yield bundle, session, runtime
