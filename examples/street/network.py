"""The demo network: which GauGAN it is, what it is fed, and how its weights are loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sige_deploy.errors import ExportError
from sige_deploy.models.gaugan import GauGAN, load_state

from .labels import CLASSES, HEIGHT, SHADE, WIDTH
from .planes import PLANES, planes

CHANNELS = CLASSES + 1 + len(PLANES)
WEIGHTS = Path(__file__).with_name("street.safetensors")


def street_generator() -> GauGAN:
    """The network with random weights: few channels at low resolutions, so that it looks nearby first."""
    return GauGAN(CHANNELS, (HEIGHT, WIDTH), ngf=32, levels=5, spade_hidden=64, max_multiplier=4)


def load_street_generator(path: str | Path = WEIGHTS) -> GauGAN:
    """The trained network, float32, in eval mode, from a safetensors file with float16 weights.

    Raises ExportError when the file is absent, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"There is no checkpoint {path}; train one with examples/street/train.py.")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors has its own error types for damaged files
        raise ExportError(f"{path} is not a readable safetensors file ({type(error).__name__}).") from error
    model = street_generator()
    load_state(model, {key: value.float() for key, value in state.items()}, str(path))
    return model.eval()


@lru_cache(maxsize=4)
def _planes_on(device: torch.device) -> Tensor:
    return torch.from_numpy(planes()).to(device)


def encode(labels: Tensor) -> Tensor:
    """The network's input for label maps uint8 [B, HEIGHT, WIDTH]: float32 [B, CHANNELS, HEIGHT, WIDTH].

    One channel per class, the shade flag, then the fixed texture planes.
    """
    classes = functional.one_hot((labels % SHADE).long(), CLASSES).permute(0, 3, 1, 2).float()
    shade = (labels >= SHADE).float()[:, None]
    fields = _planes_on(labels.device).expand(len(labels), -1, -1, -1)
    return torch.cat((classes, shade, fields), 1)
