"""The networks of a diffusers pipeline as functions of plain tensors.

What the UNet takes of a text does not follow from the image: the keys and values of every cross-attention,
and SDXL's embedding of the pooled text and of the sizes. `Prompt` computes all of it once per prompt;
`Denoiser` is the UNet (and a ControlNet beside it) on what `Prompt` gives, so that neither record nor edit
computes it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sige_deploy.errors import ExportError


def cross_attentions(network: nn.Module) -> list[nn.Module]:
    """The cross-attention layers of a UNet or ControlNet, in order."""
    return [m for name, m in network.named_modules() if name.endswith("attn2") and hasattr(m, "to_k")]


class Prompt(nn.Module):
    """What the networks take of a text, side by side.

    forward(hidden [B, T, width]) -> text [B, T, keys and values of all layers]; of networks with
    `add_embedding` (SDXL) forward(hidden, pooled [B, pooled width], time_ids [B, 6]) -> text, added
    [B, embeddings].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [layer for network in networks for layer in cross_attentions(network)]
        self.projections = nn.ModuleList(p for layer in layers for p in (layer.to_k, layer.to_v))
        self.embedded = [n for n in networks if getattr(n, "add_embedding", None) is not None]
        self.embeddings = nn.ModuleList(n.add_embedding for n in self.embedded)

    def forward(
        self, hidden: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        outputs = {"text": torch.cat([project(hidden) for project in self.projections], dim=-1)}
        if self.embedded:
            assert pooled is not None and time_ids is not None
            outputs["added"] = torch.cat(list(self._added(pooled, time_ids)), dim=-1)
        return outputs

    def _added(self, pooled: Tensor, time_ids: Tensor) -> Iterator[Tensor]:
        for network, embedding in zip(self.embedded, self.embeddings):
            sizes: Any = network.add_time_proj  # sinusoids of each of the six numbers, in float32
            times = sizes(time_ids.flatten()).reshape(len(pooled), -1)
            yield embedding(torch.cat([pooled, times.to(pooled.dtype)], dim=-1))


class _Call:
    """What one call gives to layers deep inside. No module and no container, so that torch.export leaves the
    one object alone that all of them share."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.scale: Tensor | None = None  # the ControlNet's


class _Given(nn.Module):
    """Stands in for a layer whose result is given from outside."""

    def __init__(self, call: _Call, place: int) -> None:
        super().__init__()
        self.call = call
        self.place = place

    def forward(self, *_: Any) -> Tensor:
        return self.call.parts[self.place]


class _Scaled(nn.Module):
    """A 1x1 convolution's result times a scale: as a convolution of the scaled input, it can add its result
    to what comes next at once."""

    def __init__(self, conv: nn.Conv2d, call: _Call) -> None:
        super().__init__()
        self.conv, self.call = conv, call

    def forward(self, x: Tensor) -> Tensor:
        scale = self.call.scale
        assert scale is not None and self.conv.bias is not None
        wide = scale.expand(self.conv.in_channels)[None, :, None, None]
        return (
            nn.functional.conv2d(x * wide, self.conv.weight) + (self.conv.bias * scale)[None, :, None, None]
        )


class Denoiser(nn.Module):
    """A UNet2DConditionModel, with or without a ControlNet, on what `Prompt` makes of a text.

    forward(sample [B, C, h, w], timestep float32 [1], text [B, T, ...], added [B, ...] (SDXL), control
    [B, 3, H, W] and control_scale [1] (with a ControlNet)) -> the UNet's prediction [B, C_out, h, w], named
    noise whatever the prediction type is.

    Takes the networks over: their own projections of the text are gone. Raises ExportError for networks that
    take more than this.
    """

    def __init__(self, unet: Any, controlnet: Any = None) -> None:
        super().__init__()
        networks = [n for n in (unet, controlnet) if n is not None]
        for network in networks:
            _check(network)
        self.unet, self.controlnet = unet, controlnet
        self.call = _Call()
        self.widths: list[int] = []
        self.embedding_widths: list[int] = []
        for layer in (layer for network in networks for layer in cross_attentions(network)):
            for name in ("to_k", "to_v"):
                setattr(layer, name, self._instead_of(getattr(layer, name).out_features, self.widths))
        for network in networks:
            if getattr(network, "add_embedding", None) is not None:
                width = network.add_embedding.linear_2.out_features
                network.add_embedding = self._instead_of(width, self.embedding_widths)
        if controlnet is not None:
            blocks = controlnet.controlnet_down_blocks
            controlnet.controlnet_down_blocks = nn.ModuleList(_Scaled(block, self.call) for block in blocks)
            controlnet.controlnet_mid_block = _Scaled(controlnet.controlnet_mid_block, self.call)

    def _instead_of(self, width: int, widths: list[int]) -> _Given:
        widths.append(width)
        return _Given(self.call, len(self.widths) + len(self.embedding_widths) - 1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tensor,
        added: Tensor | None = None,
        control: Tensor | None = None,
        control_scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        self.call.parts = [*text.split(self.widths, dim=-1)]
        self.call.scale = control_scale
        # For the layers that `_Given` stands in for: it has to be there, but nobody reads it.
        hidden = torch.zeros(len(sample), 1, 1, dtype=sample.dtype, device=sample.device)
        kwargs: dict[str, Any] = {"return_dict": False}
        if added is not None:
            self.call.parts += added.split(self.embedding_widths, dim=-1)
            kwargs["added_cond_kwargs"] = {"text_embeds": hidden[:, 0], "time_ids": hidden[:, 0]}
        residuals: dict[str, Any] = {}
        if self.controlnet is not None:
            latents = sample[:, : self.controlnet.config.in_channels]
            down, mid = self.controlnet(latents, timestep, hidden, control, **kwargs)
            residuals = {
                "down_block_additional_residuals": list(down),
                "mid_block_additional_residual": mid,
            }
        return {"noise": self.unet(sample, timestep, hidden, **kwargs, **residuals)[0]}


def _check(network: Any) -> None:
    """Refuse a network that takes other things of a text, or other conditions, than `Prompt` computes."""
    config, kind = network.config, type(network).__name__
    expected = {
        "encoder_hid_dim_type": (None,),
        "addition_embed_type": (None, "text_time"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "time_cond_proj_dim": (None,),
        "cross_attention_norm": (None,),
        "dual_cross_attention": (None, False),
        "global_pool_conditions": (None, False),
    }
    for name, known in expected.items():
        if config.get(name) not in known:
            raise ExportError(
                f"The {kind} has {name} = {config.get(name)!r}, which this exporter does not know; "
                "it exports Stable Diffusion 1.x, 2.x and XL."
            )
    for name, layer in network.named_modules():
        if name.endswith("attn2") and getattr(layer, "add_k_proj", None) is not None:
            raise ExportError(
                f"The {kind}'s layer {name} takes keys of a second source, which this exporter does not "
                "know; it exports Stable Diffusion 1.x, 2.x and XL."
            )


class VaeEncoder(nn.Module):
    """forward(image [B, 3, H, W] in [-1, 1]) -> mean, std [B, C, h, w], scaled as the UNet takes latents: a
    sample is mean + std * noise."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.quant = vae.encoder, vae.quant_conv
        self.scale, self.shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        moments = self.encoder(image)
        if self.quant is not None:
            moments = self.quant(moments)
        mean, logvar = moments.chunk(2, dim=1)
        std = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))  # diffusers' own limits
        return {"mean": (mean - self.shift) * self.scale, "std": std * self.scale}


class VaeDecoder(nn.Module):
    """forward(latents [B, C, h, w], scaled as the UNet gives them) -> image [B, 3, H, W], in about
    [-1, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder, self.quant = vae.decoder, vae.post_quant_conv
        self.scale, self.shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        latents = latents / self.scale + self.shift
        if self.quant is not None:
            latents = self.quant(latents)
        return {"image": self.decoder(latents)}


class TextEncoder(nn.Module):
    """A CLIP text encoder. forward(tokens int64 [B, T]) -> hidden [B, T, width]: of its last layer, or with
    `penultimate` of the one before; and pooled [B, width] if it projects."""

    def __init__(self, encoder: Any, penultimate: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.penultimate = penultimate

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        out = self.encoder(input_ids=tokens, output_hidden_states=self.penultimate)
        outputs = {"hidden": out.hidden_states[-2] if self.penultimate else out.last_hidden_state}
        if getattr(out, "text_embeds", None) is not None:
            outputs["pooled"] = out.text_embeds
        return outputs
