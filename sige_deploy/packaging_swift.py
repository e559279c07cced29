"""The Swift part of a package: SIGEKit, the bundle's Core ML models and a self-test, for Xcode to open."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from sige_deploy import __version__, masks, rows
from sige_deploy.bundle import GEOMETRY, MANIFEST, Bundle, open_bundle
from sige_deploy.coreml.manifest import MANIFEST as MODELS
from sige_deploy.coreml.manifest import read_models
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.manifest import InputSpec, OutputSpec
from sige_deploy.runtimes.base import create
from sige_deploy.session import Session

SHARE = 0.012  # of the pixels that the self-test edits
_SELF_TEST = "Sources/SIGEBundle/selftest.safetensors"
_BUNDLE = "Sources/SIGEBundle/bundle"
#: Where things are in the sources, and where in the package; with the names that go there.
_PARTS = (
    ("runtimes/swift", ".", ("Package.swift",)),
    ("runtimes/swift/Sources", "Sources", ("**/*.swift",)),
    ("runtimes/swift/Examples", "Examples", ("**/*.swift",)),
    ("plugins/coreml", "Sources/SIGELayers", ("*.swift",)),
    ("plugins/kernels/metal", "Sources/SIGEKit/metal", ("*.metal", "*.h")),
)


def fill(folder: Path, bundle: Bundle, libraries: Path | None) -> None:
    """Put everything into `folder`: the package's sources and, of the bundle, what a device reads.

    Raises BundleError when the bundle has no Core ML models or altered ones, RuntimeFailure when the sources
    are missing, InputError when libraries are named: none are needed.
    """
    if libraries is not None:
        raise InputError("a Swift package is built from its sources; leave the libraries out.")
    read_models(bundle)
    for source, place, patterns in _PARTS:
        root = _sources(source)
        for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
            target = folder / place / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    _copy_bundle(bundle, folder / _BUNDLE)
    _write_self_test(bundle, folder / _SELF_TEST)
    (folder / "README.md").write_text(_readme(bundle), encoding="utf-8")


def _sources(name: str) -> Path:
    """A folder of the checkout or of the installed package."""
    here = Path(__file__).resolve()
    for root in (here.parents[1], here.parent):
        if (root / name).is_dir():
            return root / name
    raise RuntimeFailure(f"the Swift sources '{name}' are missing; install sige-deploy anew.")


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Manifest, tables and Core ML models, checked before; a device reads no ONNX graphs."""
    models, manifest = read_models(bundle)
    place = models.relative_to(bundle.root)
    for name in (MANIFEST, GEOMETRY, *((place / name).as_posix() for name in (MODELS, *manifest.files))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, folder / name)


def _write_self_test(bundle: Bundle, file: Path) -> None:
    """Inputs, an edit of `SHARE` of the pixels, and what a Python session makes of them.

    The parts "recorded", "edited" and, of the edit back after a commit, "back" hold "<part>.input.<name>" and
    "<part>.output.<name>"; "mask" is the edit's. Raises RuntimeFailure when the network does not run here.
    """
    from safetensors.numpy import save_file

    # An edit that is small enough for the device is small enough here.
    opened = open_bundle(bundle.root)
    planner = opened.manifest.planner
    planner = planner.model_copy(update={"dense_above": planner.gpu_dense_above})
    opened.manifest = opened.manifest.model_copy(update={"planner": planner})
    rng = np.random.default_rng(0)
    before = {spec.name: _drawn(spec, rng) for spec in opened.manifest.inputs}
    height, width = rows.size(opened.manifest.spatial()[0])
    mask = np.zeros((height, width), bool)
    tall, wide = (max(round(extent * SHARE**0.5), 1) for extent in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    mask[top : top + tall, left : left + wide] = True
    after = dict(before)
    for spec in opened.manifest.spatial():
        after[spec.name] = before[spec.name].copy()
        edited = masks.resample_mask(mask, rows.size(spec), opened.manifest.policy.threshold)
        fresh = rows.planes(spec, _drawn(spec, rng))
        rows.planes(spec, after[spec.name])[..., edited] = fresh[..., edited]
    arrays: dict[str, np.ndarray] = {"mask": mask}
    with Session(opened, create("onnxruntime", opened, "cpu", None)) as session:
        _add(arrays, "recorded", before, session.record(**before))
        _add(arrays, "edited", after, session.edit(mask=mask, **after))
        session.commit()
        _add(arrays, "back", before, session.edit(mask=mask, **before))
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, file)


def _add(
    arrays: dict[str, np.ndarray], part: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]
) -> None:
    arrays |= {f"{part}.input.{name}": array for name, array in inputs.items()}
    arrays |= {f"{part}.output.{name}": array for name, array in outputs.items()}


def _drawn(spec: InputSpec, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, or 0 and 1."""
    values = (
        rng.standard_normal(spec.shape) if spec.dtype.startswith("float") else rng.integers(0, 2, spec.shape)
    )
    return np.asarray(values).astype(spec.dtype)


def _readme(bundle: Bundle) -> str:
    manifest = bundle.manifest
    inputs = "\n".join(_row(i, i.role) for i in manifest.inputs)
    outputs = "\n".join(_row(o, "output") for o in manifest.outputs)
    spatial, output = manifest.spatial()[0], manifest.outputs[0].name
    return f"""# {manifest.name}

A network that repaints what an edit changed, for macOS 13 and iOS 16 and later: made by sige_deploy
{__version__}.

| array | dtype | shape | role |
| --- | --- | --- | --- |
{inputs}
{outputs}

## Try it

Open this folder in Xcode, choose the scheme `SIGESelfTest` and run it on a Mac, or in a terminal

    swift run -c release SIGESelfTest

It compares the network on this device with results of Python, prints whether the layers ran on the GPU
(`encode ran`), and times the dense network against an edit of {SHARE:.1%} of the pixels. The scheme `Paint`
is a window to paint in.

## In your app

Add this folder as a local package, and the libraries `SIGEKit` and `SIGEBundle` to your target.

```swift
import SIGEBundle
import SIGECore
import SIGEKit

let session = try await Session.open(SIGEBundle.url)
let image = try Tensor(.{spatial.dtype}, shape: {spatial.shape}, floats: values)
let outputs = try await session.record(["{spatial.name}": image])      // and all other inputs, once
let edited = try await session.edit(["{spatial.name}": changed])       // costs what changed
let picture = edited["{output}"]!.floats()
try await session.commit()                                     // later edits start from this one
```
"""


def _row(spec: InputSpec | OutputSpec, role: str) -> str:
    return f"| `{spec.name}` | {spec.dtype} | {spec.shape} | {role} |"
