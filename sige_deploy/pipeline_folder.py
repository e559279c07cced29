"""The folder of an exported diffusion pipeline: bundles, text encoders, tokenizers, and one manifest of all.

    pipeline.json        PipelineManifest
    unet/                bundle   sample, timestep, text ... -> noise
    vae_encoder/         bundle   image -> mean, std
    vae_decoder/         bundle   latents -> image
    prompt/model.onnx    hidden states of the text -> what the UNet takes of it, once per prompt
    text_encoder/, text_encoder_2/     model.onnx: tokens -> hidden, pooled
    tokenizer/, tokenizer_2/, scheduler/     as diffusers wrote them

`docs/diffusers.md` describes the inputs and outputs of every part.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from sige_deploy import files
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.errors import BundleError
from sige_deploy.manifest import FileSpec, Size, Spec, check_relative

PIPELINE: Final = "pipeline.json"
PIPELINE_SCHEMA: Final = 1
BUNDLES: Final = ("unet", "vae_encoder", "vae_decoder")
MANIFEST_LIMIT: Final = 4 << 20  # bytes


class LatentSpec(Spec):
    """The latents: [batch, channels, height, width], one per `factor` x `factor` pixels of the image.

    scaling_factor, shift_factor: latents = (VAE's latents - shift_factor) * scaling_factor. Both are part of
    the VAE bundles, so nobody has to apply them again.
    """

    channels: Size
    height: Size
    width: Size
    factor: Size
    scaling_factor: float
    shift_factor: float = 0.0


class TextEncoderSpec(Spec):
    """One text encoder. `model`: its ONNX file, tokens int64 [1, length] -> hidden [1, length, width] and,
    if `pooled` is not None, pooled [1, pooled]. `tokenizer`: folder of its tokenizer's files."""

    model: str
    tokenizer: str
    length: Size
    width: Size
    pooled: Size | None = None


class SourceSpec(Spec):
    """A file or folder that went into the UNet: its name, its weights' SHA-256 (hex), and a LoRA's scale."""

    kind: Literal["lora", "controlnet"]
    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scale: float | None = None


class PipelineManifest(Spec):
    """Everything that a pipeline must know before it opens a bundle.

    family: how prompts become conditioning. height, width: the image's, in pixels. batch: the UNet's; guided
    pipelines put the unconditional half first. input_channels: of the UNet's sample; 9 for inpainting
    (latents, mask, latents of the masked image). controlnet: whether the UNet takes `control` and
    `control_scale`. zero_empty_prompt: an empty negative prompt is all zeros instead of the encoders' output.
    bundles: id of each bundle. files: every other file but this manifest.
    """

    schema_version: Literal[1] = PIPELINE_SCHEMA
    name: str
    family: Literal["stable-diffusion", "stable-diffusion-xl"]
    height: Size
    width: Size
    batch: Size
    input_channels: Size
    latent: LatentSpec
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    precision: Literal["float16", "float32"]
    controlnet: bool = False
    zero_empty_prompt: bool = False
    text_encoders: list[TextEncoderSpec]
    prompt: str = "prompt/model.onnx"
    scheduler: str = "scheduler/scheduler_config.json"
    sources: list[SourceSpec]
    bundles: dict[str, str]
    files: dict[str, FileSpec]
    producer: dict[str, str]

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, listed: dict[str, FileSpec]) -> dict[str, FileSpec]:
        for name in listed:
            check_relative(name)
        return listed

    @property
    def inpainting(self) -> bool:
        """Whether the UNet takes a mask and the masked image's latents beside the latents."""
        return self.input_channels == 2 * self.latent.channels + 1


class Pipeline:
    """A checked pipeline folder."""

    def __init__(self, root: Path, manifest: PipelineManifest, bundles: dict[str, Bundle]) -> None:
        self.root = root
        self.manifest = manifest
        self.bundles = bundles

    def __repr__(self) -> str:
        return f"Pipeline({str(self.root)!r}, name={self.manifest.name!r})"

    @property
    def unet(self) -> Bundle:
        """sample, timestep [1] float32, text, ... -> noise."""
        return self.bundles["unet"]

    @property
    def vae_encoder(self) -> Bundle:
        """image [1, 3, H, W] in [-1, 1] -> mean, std [1, C, h, w]: latents = mean + std * noise."""
        return self.bundles["vae_encoder"]

    @property
    def vae_decoder(self) -> Bundle:
        """latents [1, C, h, w] -> image [1, 3, H, W] in about [-1, 1]."""
        return self.bundles["vae_decoder"]

    @property
    def prompt(self) -> Path:
        """ONNX file: hidden [batch, length, width], for SDXL pooled and time_ids -> text, for SDXL added."""
        return self.path(self.manifest.prompt)

    def path(self, name: str) -> Path:
        """Path of a file outside the bundles. Raises BundleError if the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(f"pipeline '{self.root}' holds no file '{name}'; export it anew.")
        return self.root / name

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration as diffusers wrote it. Raises BundleError if it is not JSON."""
        path = self.path(self.manifest.scheduler)
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot read '{path}' ({error}); export the pipeline anew.") from error
        if not isinstance(config, dict):
            raise BundleError(f"'{path}' is not a JSON object; export the pipeline anew.")
        return config


def read_pipeline(folder: str | os.PathLike[str]) -> Pipeline:
    """Check the folder of an exported pipeline: manifest, the paths, sizes and SHA-256 of every file, and
    every bundle. Nothing else is parsed. Raises BundleError with one sentence on the first thing wrong."""
    root = Path(os.path.abspath(folder))
    manifest = _manifest(root)
    for name in (manifest.prompt, manifest.scheduler, *(t.model for t in manifest.text_encoders)):
        if name not in manifest.files:
            raise BundleError(f"'{root / PIPELINE}' does not list '{name}'; export the pipeline anew.")
    for name, spec in manifest.files.items():
        _check_file(root, name, spec)
    bundles = {}
    for name in BUNDLES:
        if name not in manifest.bundles:
            raise BundleError(f"'{root / PIPELINE}' names no bundle '{name}'; export the pipeline anew.")
        bundles[name] = open_bundle(root / name)
        if bundles[name].id != manifest.bundles[name]:
            raise BundleError(
                f"bundle '{root / name}' is not the one that the pipeline was exported with; copy or export "
                "the pipeline anew."
            )
    return Pipeline(root, manifest, bundles)


class PipelineWriter:
    """A pipeline folder in the making: write into `folder`, then call `finish`."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target

    def finish(self, **fields: Any) -> Pipeline:
        """Write pipeline.json from the manifest's fields (without bundles and files, which are found), and
        put the folder in place; an older pipeline there goes only now. Raises BundleError."""
        bundles = {name: open_bundle(self.folder / name) for name in BUNDLES}
        try:
            listed = {}
            for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
                name = file.relative_to(self.folder).as_posix()
                if name.split("/")[0] not in BUNDLES:
                    listed[name] = FileSpec.of(file)
            ids = {name: bundle.id for name, bundle in bundles.items()}
            manifest = PipelineManifest(bundles=ids, files=listed, **fields)
            with files.replacing(self.folder / PIPELINE) as out:
                out.write(manifest.model_dump_json(indent=1).encode() + b"\n")
            _check_target(self.target)
            files.replace_folder(self.folder, self.target)
        except OSError as error:
            raise BundleError(
                f"cannot write the pipeline '{self.target}' ({error.strerror}); choose a folder that you can "
                "write to."
            ) from error
        moved = {name: Bundle(self.target / name, bundle.manifest) for name, bundle in bundles.items()}
        return Pipeline(self.target, manifest, moved)


@contextlib.contextmanager
def write_pipeline(path: str | os.PathLike[str]) -> Iterator[PipelineWriter]:
    """Write a pipeline folder crash-safely, as `write_bundle` does a bundle: `writer.folder` is a hidden
    sibling of `path`; without `finish` it is removed and `path` stays as it was. Raises BundleError if `path`
    holds something that is not a pipeline, or cannot be written."""
    target = Path(os.path.realpath(path))
    _check_target(target)
    folder = files.sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise BundleError(
            f"cannot write a pipeline to '{target}' ({error.strerror}); "
            "choose a folder that you can write to."
        ) from error
    try:
        yield PipelineWriter(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_target(target: Path) -> None:
    """Refuse to replace anything but a pipeline."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / PIPELINE).is_file():
        raise BundleError(f"'{target}' is not empty and is no pipeline; choose an empty or a new folder.")


def _manifest(root: Path) -> PipelineManifest:
    path = root / PIPELINE
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MANIFEST_LIMIT:
            raise BundleError(f"'{path}' is no pipeline manifest; export the pipeline anew.")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"there is no pipeline at '{root}' ({error.strerror}); expected the folder that "
            "sige-deploy export --diffusers wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"'{path}' is truncated or not JSON ({error}); export the pipeline anew."
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != PIPELINE_SCHEMA:
        raise BundleError(
            f"'{path}' has schema version {version}, this sige_deploy reads {PIPELINE_SCHEMA}; export the "
            "pipeline anew, or upgrade sige_deploy."
        )
    try:
        return PipelineManifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"'{path}' is not valid at {where or 'its root'}: {first['msg']}; export the pipeline anew."
        ) from None


def _check_file(root: Path, name: str, spec: FileSpec) -> None:
    path = root / name
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, real_root]) != real_root:
        raise BundleError(
            f"'{name}' of pipeline '{root}' is a link that leaves it; copy the file itself into it."
        )
    try:
        status = os.stat(path)
        same = stat.S_ISREG(status.st_mode) and status.st_size == spec.bytes
        same = same and files.sha256(path) == spec.sha256
    except OSError as error:
        raise BundleError(
            f"cannot read '{path}' ({error.strerror}); copy or export the pipeline anew."
        ) from error
    if not same:
        raise BundleError(
            f"'{path}' is not the file that the pipeline was exported with (its size or SHA-256 differs); "
            "copy or export the pipeline anew."
        )
