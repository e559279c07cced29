"""What a pipeline is made of, and the UNet's inputs and predictions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.inputs import as_numpy
from sige_deploy.pipelines.arguments import checked_number
from sige_deploy.session import Session

Arrays = dict[str, np.ndarray]
KEPT = 4  # texts that stay on a GPU

#: (prompt, negative prompt) -> the UNet's inputs that follow from them, of its batch.
Condition = Callable[[str, str], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Parts:
    """The sessions of a pipeline and what goes between them.

    unet: sample [B, C or 2C + 1, h, w], timestep float32 [1], what `condition` gives, and with a ControlNet
    control [B, 3, H, W] and control_scale [1] -> noise. encoder: image [1, 3, H, W] in [-1, 1] -> mean (and
    std) [1, C, h, w]. decoder: latents [1, C, h, w] -> image [1, 3, H, W]. scheduler: configuration, as
    diffusers writes it. model: what identifies the weights, in JSON values.
    """

    unet: Session
    encoder: Session
    decoder: Session
    condition: Condition
    scheduler: Mapping[str, Any]
    model: Mapping[str, Any]

    @property
    def sessions(self) -> dict[str, Session]:
        return {"unet": self.unet, "vae_encoder": self.encoder, "vae_decoder": self.decoder}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in pixels."""
        _, _, height, width = self._shape(self.encoder, "image")
        return height, width

    @property
    def latent(self) -> tuple[int, int, int]:
        """Shape [C, h, w] of the latents."""
        _, channels, height, width = self._shape(self.decoder, "latents")
        return channels, height, width

    @property
    def factor(self) -> int:
        """Pixels per latent, along an axis."""
        return self.size[0] // self.latent[1]

    @property
    def batch(self) -> int:
        """Of the UNet: 2 holds both halves of guidance, the unconditional one first."""
        return self._shape(self.unet, "sample")[0]

    @property
    def inpainting(self) -> bool:
        """Whether the UNet takes a mask and the masked picture's latents beside the latents."""
        return self._shape(self.unet, "sample")[1] == 2 * self.latent[0] + 1

    @property
    def controlled(self) -> bool:
        """Whether the UNet takes a picture to follow."""
        return any(spec.name == "control" for spec in self.unet.bundle.manifest.inputs)

    def checked_guidance(self, guidance: Any) -> float:
        """Raises InputError for what is no number, and where the UNet has no halves to be weighed."""
        weight = checked_number("guidance", guidance, "a finite number")
        if self.batch == 1 and weight != 1:
            raise InputError(
                f"guidance {weight:g} needs both halves of guidance, and this pipeline was exported with a "
                "batch of 1; leave guidance out, or export it with a batch of 2."
            )
        return weight

    def dtype(self, session: Session, name: str) -> str:
        """Of an input."""
        return next(spec.dtype for spec in session.bundle.manifest.inputs if spec.name == name)

    def _shape(self, session: Session, name: str) -> list[int]:
        for spec in session.bundle.manifest.inputs:
            if spec.name == name and len(spec.shape) == 4:
                return spec.shape
        raise InputError(f"bundle '{session.bundle.root}' has no input '{name}' of 4 axes; export it anew.")


@dataclass(frozen=True)
class Conditions:
    """What the UNet follows beside the latents.

    text: of `Condition`. guidance: weight of the conditional half over the other, 1 for none. given: further
    inputs, as they are. Both are as `Denoiser.placed` leaves them. extra: channels [C + 1, h, w] that stand
    behind the latents of inpainting networks.
    """

    text: Mapping[str, Any]
    guidance: float
    given: Mapping[str, Any]
    extra: np.ndarray | None = None


class Denoiser:
    """The UNet's inputs for some latents, and its prediction from its outputs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._batch = parts.batch
        self._dtype = parts.dtype(parts.unet, "sample")
        self._texts: OrderedDict[tuple[str, str], Mapping[str, Any]] = OrderedDict()

    def text(self, prompt: str, negative: str) -> Mapping[str, Any]:
        """What the UNet takes of a prompt and a negative one, as `placed` leaves it; the last ones stay."""
        key = prompt, negative
        if key not in self._texts:
            self._texts[key] = self.placed(self._parts.condition(prompt, negative))
            while len(self._texts) > KEPT:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]

    def placed(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Inputs that many steps share, where the UNet runs."""
        with self._parts.unet.held() as device:
            return {name: device.placed(as_numpy(name, x)) for name, x in arrays.items()}

    def inputs(self, scaled: np.ndarray, timestep: float, conditions: Conditions) -> dict[str, Any]:
        """Of latents [C, h, w] as the scheduler scales them."""
        sample = scaled if conditions.extra is None else np.concatenate([scaled, conditions.extra])
        return {
            "sample": np.repeat(_converted(sample[None], self._dtype), self._batch, axis=0),
            "timestep": np.full(1, timestep, np.float32),
            **conditions.text,
            **conditions.given,
        }

    def prediction(self, outputs: Mapping[str, Any], guidance: float) -> np.ndarray:
        """float32 [C, h, w]."""
        noise = _converted(as_numpy("noise", next(iter(outputs.values()))), "float32")
        if self._batch == 1:
            return noise[0]
        return noise[0] + np.float32(guidance) * (noise[1] - noise[0])


def _converted(array: np.ndarray, dtype: str) -> np.ndarray:
    """`array.astype(dtype)`; between float16 and float32 torch takes a fraction of numpy's time."""
    if array.dtype == dtype:
        return array
    import torch

    return torch.from_numpy(array).to(getattr(torch, dtype)).numpy()
