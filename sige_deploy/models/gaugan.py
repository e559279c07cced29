"""The SPADE generator (GauGAN; Park et al., arXiv 1903.07291) as a plain dense torch module.

A label map steers every normalisation: at each resolution the map, resized by nearest neighbour, goes
through small convolutions that yield a scale and a shift per pixel and channel. The defaults are the
published Cityscapes network at 256 x 512 pixels (93.1 M values, running statistics included; 281.3 GMACs),
and the parameters carry the names of its public checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sige_deploy.errors import ExportError

LEAK = 0.2
SPECTRAL_SUFFIXES = ("weight_orig", "weight_u", "weight_v")
BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3", "up_4")
WIDTHS = (16, 16, 16, 8, 4, 2, 1)  # in units of ngf, from head_0 to up_3; up_4 has half of ngf


class Spade(nn.Module):
    """Parameter-free batch normalisation, then a scale and a shift per pixel read from the label map.

    forward(x [B, channels, h, w], label [B, semantic_channels, h, w]) -> [B, channels, h, w].
    """

    def __init__(self, channels: int, semantic_channels: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(semantic_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        features = self.mlp_shared(label)
        return self.param_free_norm(x) * (1 + self.mlp_gamma(features)) + self.mlp_beta(features)


class SpadeBlock(nn.Module):
    """Residual block of two 3x3 convolutions, each behind a `Spade` and a leaky ReLU.

    The shortcut is a normalised 1x1 convolution where the width changes, else the identity.
    forward(x [B, before, h, w], label [B, semantic_channels, H, W]) -> [B, after, h, w].
    """

    def __init__(self, before: int, after: int, semantic_channels: int, hidden: int) -> None:
        super().__init__()
        middle = min(before, after)
        self.conv_0 = nn.Conv2d(before, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, after, 3, padding=1)
        self.norm_0 = Spade(before, semantic_channels, hidden)
        self.norm_1 = Spade(middle, semantic_channels, hidden)
        self.learned_shortcut = before != after
        if self.learned_shortcut:
            self.conv_s = nn.Conv2d(before, after, 1, bias=False)
            self.norm_s = Spade(before, semantic_channels, hidden)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        label = resize(label, (x.shape[2], x.shape[3]))
        shortcut = self.conv_s(self.norm_s(x, label)) if self.learned_shortcut else x
        x = self.conv_0(functional.leaky_relu(self.norm_0(x, label), LEAK))
        x = self.conv_1(functional.leaky_relu(self.norm_1(x, label), LEAK))
        return shortcut + x


class GauGAN(nn.Module):
    """The generator: label map in, picture out.

    semantic_channels: channels of the label map. image_size: (height, width), each a multiple of 2**levels.
    ngf: channels of the last block; the first ones have 16 times as many, or `max_multiplier` times if less.
    levels: how often the size doubles: 5, 6 or 7 ("normal", "more" and "most" of the published code).
    spade_hidden: channels inside each `Spade`.

    forward(label float [B, semantic_channels, height, width]) -> float [B, 3, height, width] in [-1, 1].
    Raises ExportError for sizes that do not fit together.
    """

    def __init__(
        self,
        semantic_channels: int = 36,
        image_size: tuple[int, int] = (256, 512),
        ngf: int = 64,
        levels: int = 6,
        spade_hidden: int = 128,
        max_multiplier: int = 16,
    ) -> None:
        super().__init__()
        if levels not in (5, 6, 7):
            raise ExportError(f"GauGAN has 5, 6 or 7 upsampling levels, not {levels}; choose one of these.")
        height, width = image_size
        if height < 1 or width < 1 or height % 2**levels or width % 2**levels:
            raise ExportError(
                f"The image size {height}x{width} does not fit {levels} upsampling levels: "
                f"height and width must be multiples of {2**levels}."
            )
        self.semantic_channels = semantic_channels
        self.image_size = (height, width)
        self.levels = levels
        self.start_size = (height >> levels, width >> levels)

        widths = [min(width, max_multiplier) * ngf for width in WIDTHS]
        if levels == 7:
            widths.append(ngf // 2)
        self.fc = nn.Conv2d(semantic_channels, widths[0], 3, padding=1)
        self.block_names = BLOCKS[: len(widths)]
        before = widths[0]
        for name, after in zip(self.block_names, widths, strict=True):
            self.add_module(name, SpadeBlock(before, after, semantic_channels, spade_hidden))
            before = after
        self.conv_img = nn.Conv2d(before, 3, 3, padding=1)
        # With 5 levels both middle blocks work at one size; all others but the first follow a doubling.
        self.doubled = {n for n in self.block_names[1:] if n != "G_middle_1" or levels > 5}

    def forward(self, label: Tensor) -> Tensor:
        x = self.fc(resize(label, self.start_size))
        for name in self.block_names:
            if name in self.doubled:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = getattr(self, name)(x, label)
        return torch.tanh(self.conv_img(functional.leaky_relu(x, LEAK)))


def resize(label: Tensor, size: tuple[int, int]) -> Tensor:
    """The label map [B, C, H, W] at another size (height, width), by nearest neighbour."""
    if tuple(label.shape[2:]) == size:
        return label
    return functional.interpolate(label, size=size, mode="nearest")


def fold_spectral_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each (weight_orig, weight_u, weight_v) by weight = weight_orig / sigma, sigma = u^T W v.

    W is weight_orig as a matrix [out channels, rest] (Miyato et al., arXiv 1802.05957, section 2.1). Other
    entries are kept. Raises ExportError when one of the three is absent.
    """
    folded: dict[str, Tensor] = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        if leaf not in SPECTRAL_SUFFIXES:
            folded[key] = value
            continue
        absent = [s for s in SPECTRAL_SUFFIXES if f"{stem}.{s}" not in state]
        if absent:
            raise ExportError(
                f"The checkpoint has {key} but not {stem}.{absent[0]}: its spectral norm cannot be folded; "
                "use a checkpoint saved with torch.nn.utils.spectral_norm of PyTorch 1.0 or later."
            )
        if leaf == "weight_orig":
            sigma = state[f"{stem}.weight_u"] @ (value.flatten(1) @ state[f"{stem}.weight_v"])
            folded[f"{stem}.weight"] = value / sigma
    return folded


def load_official(
    source: str | Path | Mapping[str, Tensor],
    image_size: tuple[int, int] = (256, 512),
    levels: int = 6,
) -> GauGAN:
    """The generator of a public SPADE checkpoint (`latest_net_G.pth`), in eval mode.

    source: path of a .pth or .safetensors file, or its state dict; widths are read from the tensors,
    `image_size` and `levels` are not stored there (defaults: Cityscapes). A .pth is read with
    weights_only=True, so no code in it runs.
    Raises ExportError when the file cannot be read, or names or shapes are missing, unexpected or different.
    """
    name = "The state dict" if isinstance(source, Mapping) else str(source)
    state = fold_spectral_norm(source if isinstance(source, Mapping) else _read_state(Path(source)))
    widths: dict[str, int] = {}
    for key, axis in (("fc.weight", 1), ("conv_img.weight", 1), ("head_0.norm_0.mlp_shared.0.weight", 0)):
        if key not in state or state[key].dim() != 4:
            raise ExportError(
                f"{name} is not a SPADE generator driven by a label map alone: "
                f"it lacks a convolution {key}; give the file latest_net_G.pth of such a network."
            )
        widths[key] = state[key].shape[axis]
    if ("up_4.conv_0.weight" in state) != (levels == 7):
        raise ExportError(
            f"{name} {'has' if levels != 7 else 'lacks'} the block up_4: levels={levels} does not fit it."
        )
    model = GauGAN(
        semantic_channels=widths["fc.weight"],
        image_size=image_size,
        ngf=widths["conv_img.weight"] * (2 if levels == 7 else 1),
        levels=levels,
        spade_hidden=widths["head_0.norm_0.mlp_shared.0.weight"],
    )
    load_state(model, state, name)
    return model.eval()


def load_state(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copy `state` into `model`. Raises ExportError naming what is missing, unexpected or misshapen."""
    wanted = model.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(wanted.keys() - counters - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(
            k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape
        ),
    }
    if any(faults.values()):
        parts = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in faults.items() if keys]
        raise ExportError(
            f"{name} does not fit this generator: tensors {', '.join(parts)}; check its configuration."
        )
    model.load_state_dict({key: state.get(key, wanted[key]) for key in wanted})


def _some(keys: list[str], shown: int = 4) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ExportError(
            f"There is no checkpoint file {path}; give the path of a .pth or .safetensors file."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged zip, foreign pickle, truncated header: many types, one message
        raise ExportError(
            f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__})."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ExportError(f"{path} does not hold a state dict: expected a mapping of names to tensors.")
    return state
