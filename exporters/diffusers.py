"""From a diffusers pipeline folder to a folder of bundles: docs/diffusers.md."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sige_deploy import files
from sige_deploy.config import SparseConfig
from sige_deploy.errors import ExportError
from sige_deploy.exporters.diffusers_folder import (
    SCHEDULER_FILES,
    TOKENIZER_FILES,
    Folder,
    load_network,
    open_folder,
    read_json,
)
from sige_deploy.exporters.versions import version
from sige_deploy.pipeline_folder import LatentSpec, Pipeline, SourceSpec, TextEncoderSpec, write_pipeline

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
PACKAGES = ("sige-deploy", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")
PARTS = 5  # UNet, VAE's halves, prompt, text encoders
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def export_diffusers(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    config: SparseConfig | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int = 2,
    loras: Mapping[str | os.PathLike[str], float] | None = None,
    controlnet: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Pipeline:
    """Export a diffusers pipeline (Stable Diffusion 1.x, 2.x, XL, inpainting) into one folder.

    folder: as save_pretrained writes it, with safetensors weights; nothing is downloaded and no code of the
    folder runs. config: of all three bundles; weights are float32, or float16 with precision="float16".
    height, width: of the image in pixels, by default the UNet's own size. batch: of the UNet; 2 holds both
    halves of guidance. loras: LoRA files (safetensors) and their scales, fused into the weights. controlnet:
    folder of a ControlNetModel, exported into the UNet's bundle.

    Returns the written pipeline. Raises ExportError with the reason when a part is not known or does not fit;
    nothing is left at `path` unless the export is complete.
    """
    import torch

    source = open_folder(Path(folder))
    config = config or SparseConfig()
    dtype = torch.float16 if config.precision == "float16" else torch.float32
    # The modules are loaded in their type: casting copies would hold the weights twice.
    exporter = _Exporter(source, replace(config, precision="as_given"), dtype, progress)
    with write_pipeline(path) as writer:
        exporter.out = writer.folder
        networks = exporter.load(loras or {})
        size = exporter.image_size(height, width)
        exporter.unet(networks.pop("unet"), controlnet, size, batch)
        exporter.vae(size)
        encoders = exporter.text_encoders(networks)
        exporter.copy_files()
        exporter.report("hash the files", PARTS - 1)
        pipeline = writer.finish(
            name=source.root.resolve().name,
            family=source.family,
            height=size[0],
            width=size[1],
            batch=batch,
            input_channels=exporter.unet_config["in_channels"],
            latent=exporter.latent(size),
            prediction_type=exporter.prediction_type(),
            precision=str(dtype).removeprefix("torch."),
            controlnet=controlnet is not None,
            zero_empty_prompt=exporter.zeros_empty_prompts(),
            text_encoders=encoders,
            sources=exporter.sources,
            producer={package.replace("-", "_"): version(package) for package in PACKAGES},
        )
    exporter.report("done", PARTS)
    return pipeline


class _Exporter:
    """One export: what is known of the pipeline, and one method per part."""

    def __init__(
        self, folder: Folder, config: SparseConfig, dtype: torch.dtype, progress: Progress | None
    ) -> None:
        self.folder = folder
        self.config = config
        self.dtype = dtype
        self.out = Path()
        self.unet_config, self.vae_config = folder.config("unet"), folder.config("vae")
        self.scheduler = read_json(folder.root / "scheduler" / SCHEDULER_FILES[0])
        self.sources: list[SourceSpec] = []
        self._progress = progress

    def report(self, stage: str, done: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, PARTS)

    # ---- sizes ---------------------------------------------------------------------------------------------

    @property
    def factor(self) -> int:
        """Pixels of the image per latent, along an axis."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    def image_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """(height, width) in pixels; both have to be whole at the UNet's smallest level."""
        sample = self.unet_config.get("sample_size") or 64
        sizes = sample if isinstance(sample, list) else (sample, sample)
        step = self.factor * int(2 ** (len(self.unet_config["block_out_channels"]) - 1))
        found = []
        for name, given, own in zip(("height", "width"), (height, width), sizes):
            pixels = own * self.factor if given is None else given
            if pixels < step or pixels % step:
                raise ExportError(
                    f"The image's {name} of {pixels} pixels is no multiple of {step}, as this UNet needs; "
                    f"try {max(1, round(pixels / step)) * step}."
                )
            found.append(pixels)
        return found[0], found[1]

    def latent(self, size: tuple[int, int]) -> LatentSpec:
        vae = self.vae_config
        return LatentSpec(
            channels=vae["latent_channels"],
            height=size[0] // self.factor,
            width=size[1] // self.factor,
            factor=self.factor,
            scaling_factor=vae.get("scaling_factor", 0.18215),
            shift_factor=vae.get("shift_factor") or 0.0,
        )

    def prediction_type(self) -> str:
        kind = str(self.scheduler.get("prediction_type", "epsilon"))
        if kind not in PREDICTIONS:
            raise ExportError(
                f"The scheduler has prediction_type '{kind}'; known are {', '.join(PREDICTIONS)}."
            )
        return kind

    def zeros_empty_prompts(self) -> bool:
        """Whether an empty negative prompt is all zeros: XL's own setting, by default true."""
        xl = self.folder.family == "stable-diffusion-xl"
        return xl and bool(self.folder.index.get("force_zeros_for_empty_prompt", True))

    # ---- parts ---------------------------------------------------------------------------------------------

    def load(self, loras: Mapping[str | os.PathLike[str], float]) -> dict[str, Any]:
        """UNet and text encoders, with the LoRAs fused."""
        from sige_deploy.exporters.lora import fuse_lora

        self.report("load the networks", 0)
        names = [n for n in ("unet", "text_encoder", "text_encoder_2") if n in self.folder.parts]
        networks: dict[str, Any] = {name: self.folder.load(name, self.dtype) for name in names}
        for given, scale in loras.items():
            file = Path(given)
            fuse_lora(file, scale, networks)
            self.sources.append(
                SourceSpec(kind="lora", name=file.name, sha256=files.sha256(file), scale=scale)
            )
        return networks

    def unet(
        self, unet: Any, controlnet: str | os.PathLike[str] | None, size: tuple[int, int], batch: int
    ) -> None:
        """The UNet's bundle, and beside it what it takes of a text as a plain network."""
        import torch

        from sige_deploy.exporters.diffusers_modules import Denoiser, Prompt

        if batch < 1:
            raise ExportError(f"The batch size has to be 1 or more, not {batch}.")
        channels, latents = unet.config.in_channels, self.vae_config["latent_channels"]
        if channels not in (latents, 2 * latents + 1):
            raise ExportError(
                f"The UNet takes {channels} channels; known are {latents} (latents) and {2 * latents + 1} "
                "(inpainting: latents, mask, latents of the masked image)."
            )
        networks = [unet]
        if controlnet is not None:
            networks.append(self._controlnet(Path(controlnet), unet))
        zeros = self._zeros
        lengths = [
            self._tokens(name) for name in ("text_encoder", "text_encoder_2") if name in self.folder.parts
        ]
        examples = {"hidden": zeros(batch, max(lengths), unet.config.cross_attention_dim)}
        if getattr(unet, "add_embedding", None) is not None:
            wide = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            examples |= {"pooled": zeros(batch, wide), "time_ids": torch.zeros(batch, 6)}
        prompt = Prompt(networks).eval()
        with torch.no_grad():
            text = prompt(**examples)
        self._plain(prompt, examples, "prompt")
        del prompt
        latent = self.latent(size)
        inputs = {
            "sample": zeros(batch, unet.config.in_channels, latent.height, latent.width),
            "timestep": torch.full((1,), 500.0),
            **{name: torch.zeros_like(value) for name, value in text.items()},
        }
        spatial = ["sample"]
        if controlnet is not None:
            inputs |= {"control": zeros(batch, 3, *size), "control_scale": torch.ones(1, dtype=self.dtype)}
            spatial.append("control")
        denoiser = Denoiser(*networks).eval()
        self._bundle("unet", denoiser, inputs, spatial, 0, free=[n for n in ("added",) if n in inputs])

    def _controlnet(self, folder: Path, unet: Any) -> Any:
        controlnet = load_network(folder, "ControlNetModel", self.dtype)
        for name in ("block_out_channels", "cross_attention_dim", "addition_embed_type"):
            mine, its = unet.config.get(name), controlnet.config.get(name)
            if mine != its:
                raise ExportError(
                    f"The ControlNet '{folder}' has {name} {its}, the UNet {mine}: it is for another model."
                )
        for file in sorted(folder.glob("*.safetensors")):
            self.sources.append(
                SourceSpec(kind="controlnet", name=f"{folder.name}/{file.name}", sha256=files.sha256(file))
            )
        return controlnet

    def vae(self, size: tuple[int, int]) -> None:
        """Encoder and decoder as a bundle each; SDXL's in float32 where its config asks for it."""
        import torch

        from sige_deploy.exporters.diffusers_modules import VaeDecoder, VaeEncoder

        if self.vae_config.get("latents_mean") is not None:
            raise ExportError("The VAE has latents_mean, which this exporter does not know.")
        wide = self.folder.family == "stable-diffusion-xl" and self.vae_config.get("force_upcast", True)
        dtype = torch.float32 if wide else self.dtype
        vae = self.folder.load("vae", dtype)
        latent = self.latent(size)
        image = torch.zeros(1, vae.config.in_channels, *size, dtype=dtype)
        self._bundle("vae_encoder", VaeEncoder(vae).eval(), {"image": image}, ["image"], 1)
        latents = torch.zeros(1, latent.channels, latent.height, latent.width, dtype=dtype)
        self._bundle("vae_decoder", VaeDecoder(vae).eval(), {"latents": latents}, ["latents"], 2)

    def text_encoders(self, networks: Mapping[str, Any]) -> list[TextEncoderSpec]:
        """Text encoders as plain networks. SDXL reads the layer before the last."""
        import torch

        from sige_deploy.exporters.diffusers_modules import TextEncoder

        self.report("export the text encoders", 3)
        specs = []
        for name, network in networks.items():
            encoder = TextEncoder(network, penultimate=len(networks) > 1).eval()
            tokens = torch.zeros(1, self._tokens(name), dtype=torch.int64)
            with torch.no_grad():
                shapes = {n: v.shape for n, v in encoder(tokens).items()}
            self._plain(encoder, {"tokens": tokens}, name)
            specs.append(
                TextEncoderSpec(
                    model=f"{name}/model.onnx",
                    tokenizer=name.replace("text_encoder", "tokenizer"),
                    length=tokens.shape[1],
                    width=shapes["hidden"][-1],
                    pooled=shapes["pooled"][-1] if "pooled" in shapes else None,
                )
            )
        return specs

    def copy_files(self) -> None:
        """Tokenizers and the scheduler's configuration."""
        parts: dict[str, Sequence[str]] = {"scheduler": SCHEDULER_FILES}
        parts |= {part: TOKENIZER_FILES for part in ("tokenizer", "tokenizer_2") if part in self.folder.parts}
        for part, names in parts.items():
            (self.out / part).mkdir()
            found = [name for name in names if (self.folder.root / part / name).is_file()]
            if not found:
                raise ExportError(f"'{self.folder.root / part}' has none of {', '.join(names)}.")
            for name in found:
                shutil.copyfile(self.folder.root / part / name, self.out / part / name)

    # ---- helpers -------------------------------------------------------------------------------------------

    def _zeros(self, *shape: int) -> torch.Tensor:
        import torch

        return torch.zeros(shape, dtype=self.dtype)

    def _tokens(self, encoder: str) -> int:
        """Tokens that a text encoder reads."""
        return int(self.folder.config(encoder).get("max_position_embeddings", 77))

    def _bundle(
        self,
        name: str,
        module: Any,
        inputs: dict[str, Any],
        spatial: list[str],
        done: int,
        free: Sequence[str] = (),
    ) -> None:
        from sige_deploy.exporters.export import export

        def report(stage: str, _done: int, _total: int) -> None:
            self.report(f"{name}: {stage}", done)

        export(module, inputs, self.out / name, spatial, self.config, free=free, name=name, progress=report)

    def _plain(self, module: Any, inputs: dict[str, Any], name: str) -> None:
        """An ONNX file with its weights beside it, in the folder of that name."""
        import onnx_ir as ir

        from sige_deploy.exporters.torch import to_onnx
        from sige_deploy.exporters.weights import write_weights

        model = to_onnx(module, inputs)
        folder = self.out / name
        folder.mkdir()
        write_weights([model], folder)
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
        ir.save(model, folder / "model.onnx")
