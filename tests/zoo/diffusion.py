"""Networks of diffusers, tiny and random: UNets of Stable Diffusion's families and their VAE.

As in use, a batch of two holds the halves of guidance.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.registry import add

SAMPLE, TIMESTEP, TEXT = (2, 4, 8, 12), (1,), (2, 7, 12)


class UNet(nn.Module):
    """forward(sample, timestep, text) with further conditions by their diffusers names."""

    def __init__(self, **settings: Any) -> None:
        import tiny_pipeline

        super().__init__()
        self.unet = tiny_pipeline.unet(**settings)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return self.unet(sample, timestep, text, return_dict=False)[0]


class UNetWithResiduals(UNet):
    """A UNet that takes a ControlNet's residuals, one for the stem, one for each block and the middle."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tensor,
        stem: Tensor,
        block: Tensor,
        down: Tensor,
        block_2: Tensor,
        mid: Tensor,
    ) -> Tensor:
        residuals = [stem, block, down, block_2]
        return self.unet(
            sample, timestep, text, return_dict=False, down_block_additional_residuals=residuals,
            mid_block_additional_residual=mid,
        )[0]  # fmt: skip


class Tuple(nn.Module):
    """A module whose outputs come in a dict, as a tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Denoiser(Tuple):
    """An XL UNet as the exporter of pipelines makes it: what it takes of the text is computed beforehand."""

    def __init__(self) -> None:
        import tiny_pipeline

        from sige_deploy.exporters import diffusers_modules

        super().__init__(diffusers_modules.Denoiser(tiny_pipeline.unet(**tiny_pipeline.SDXL)))

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, added: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(sample, timestep, text, added).values())


class Controlled(Tuple):
    """An inpainting UNet of nine channels with a ControlNet beside it."""

    def __init__(self) -> None:
        import tiny_pipeline

        from sige_deploy.exporters import diffusers_modules

        unet = tiny_pipeline.unet(in_channels=9)
        controlnet = tiny_pipeline.controlnet(tiny_pipeline.unet())
        super().__init__(diffusers_modules.Denoiser(unet, controlnet))

    def forward(
        self, sample: Tensor, timestep: Tensor, text: Tensor, control: Tensor, control_scale: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = self.module(sample, timestep, text, control=control, control_scale=control_scale)
        return tuple(outputs.values())


class Encoder(Tuple):
    """The VAE's encoder: image -> mean and standard deviation of its latents."""

    def __init__(self) -> None:
        import tiny_pipeline

        from sige_deploy.exporters import diffusers_modules

        super().__init__(diffusers_modules.VaeEncoder(tiny_pipeline.vae()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(image).values())


class Decoder(Tuple):
    """The VAE's decoder: latents -> image."""

    def __init__(self) -> None:
        import tiny_pipeline

        from sige_deploy.exporters import diffusers_modules

        super().__init__(diffusers_modules.VaeDecoder(tiny_pipeline.vae()))

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(latents).values())


def _sd2() -> nn.Module:
    import tiny_pipeline

    return UNet(**tiny_pipeline.SD2)


_inputs = {"sample": SAMPLE, "timestep": TIMESTEP, "text": TEXT}
_common: dict[str, Any] = {"spatial": ("sample",), "free": ("text",), "statistics": True}
add("sd1_unet", UNet, _inputs, **_common)
add("sd2_unet", _sd2, _inputs, **_common)
add(
    "sd_unet_residuals",
    UNetWithResiduals,
    _inputs
    | {"stem": (2, 8, 8, 12), "block": (2, 8, 8, 12)}
    | {"down": (2, 8, 4, 6), "block_2": (2, 16, 4, 6), "mid": (2, 16, 4, 6)},
    **_common | {"spatial": ("sample", "stem", "block", "down", "block_2", "mid")},
)
add(
    "sdxl_unet",
    Denoiser,
    {"sample": SAMPLE, "timestep": TIMESTEP, "text": (2, 7, 256), "added": (2, 32)},
    **_common | {"free": ("text", "added")},
)
add(
    "inpainting_controlnet",
    Controlled,
    {"sample": (2, 9, 8, 12), "timestep": TIMESTEP, "text": (2, 7, 128)}
    | {"control": (2, 3, 16, 24), "control_scale": (1,)},
    **_common | {"spatial": ("sample", "control")},
)
add("vae_encoder", Encoder, {"image": (1, 3, 16, 24)}, statistics=True)
add("vae_decoder", Decoder, {"latents": (1, 4, 8, 12)}, spatial=("latents",), statistics=True)
