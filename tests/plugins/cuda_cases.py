"""Random cases of every op for the CUDA backend: inputs and attributes, named as in docs/ops.md."""

from __future__ import annotations

import random
from typing import Any

import torch

from .library import ACTIVATIONS

CHANNELS = (3, 36, 128, 512, 1280)
ROWS = (0, 1, 2, 8, 15, 16, 17, 63, 64, 65, 120, 128, 129, 257, 784, 2048, 4099)
"""Without a table: none, few and many rows, and numbers around the sizes of tiles."""

SPLITS = ((512, 256), (256, 128), (128, 128), (256, 512), (3, 5), (8, 4), (64, 1), (36, 64), (128, 12))
"""Channels of two sources: of skips, and such that vectors of either, of both or of none fit."""

FEW_CHANNELS = 8

Case = tuple[dict[str, torch.Tensor], dict[str, Any]]


def set_apart(rows: torch.Tensor) -> bool:
    """Sets two channels of every row apart where rows have so few that some could be nearly constant: rows
    that are divided by their deviation are to have some, as docs/ops.md says. Returns whether it did."""
    few = rows.shape[-1] < FEW_CHANNELS
    if few:
        rows[..., 0], rows[..., 1] = -1, 1
    return few


class Draw:
    """Random sizes and tensors, on the current CUDA device unless `device` says another."""

    def __init__(self, seed: int, small: bool, device: str = "cuda") -> None:
        self.random = random.Random(seed)
        self.small, self.device = small, device
        torch.manual_seed(seed)

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def values(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(dtype)

    def active(self, pixels: int) -> torch.Tensor:
        """Ascending pixels: none, one, all, or some; sometimes padded by repeating the last."""
        count = self.pick(0, 1, pixels, self.random.randint(1, pixels), self.random.randint(1, pixels))
        chosen = torch.randperm(pixels)[:count].sort().values
        if count and self.random.random() < 0.5:
            chosen = torch.cat([chosen, chosen[-1:].expand(self.random.randint(1, 9))])
        return chosen.int().to(self.device)

    def source(self, dtype: torch.dtype, channels: int, phases: int = 1) -> dict[str, torch.Tensor]:
        """rows, base, halo, table, and sometimes scale and shift."""
        most = 40 if self.small else 300
        batch, pixels = self.pick(1, 2, 3), self.random.randint(1, most)
        fresh = self.pick(0, 1, pixels, self.random.randint(0, pixels))
        halo, targets = self.random.randint(0, pixels), self.pick(0, 1, self.random.randint(1, most))
        taps = self.pick(1, 2, 9, 25)
        inputs = {
            "rows": self.values(dtype, batch, fresh, channels),
            "base": self.values(dtype, batch, pixels, channels),
            "halo": torch.randint(0, pixels, (halo,), device=self.device, dtype=torch.int32),
            "table": torch.randint(
                -1, (fresh + halo) * phases, (targets, taps), device=self.device, dtype=torch.int32
            ),
        }
        return inputs | self.affine(dtype, batch, channels)

    def own_rows(self, dtype: torch.dtype, channels: int) -> dict[str, torch.Tensor]:
        """rows without a table, and sometimes scale and shift."""
        batch, rows = self.pick(1, 2), self.pick(*(ROWS[:8] if self.small else ROWS))
        return {"rows": self.values(dtype, batch, rows, channels)} | self.affine(dtype, batch, channels)

    def affine(self, dtype: torch.dtype, batch: int, channels: int) -> dict[str, torch.Tensor]:
        """scale and shift, each in most cases."""
        return {
            name: self.values(dtype, self.pick(1, batch), 1, channels)
            for name in ("scale", "shift")
            if self.random.random() < 0.6
        }

    def gather(self, dtype: torch.dtype) -> Case:
        phases, width = self.pick(1, 1, 2, 4), self.pick(1, 3, 4, 8, 12, 64, 320)
        attributes = {
            "activation": self.pick("identity", *ACTIVATIONS),
            "alpha": 0.2,
            "phases": phases,
            "pad_value": self.pick(0.0, 1.5, -float("inf")),
        }
        return self.source(dtype, width * phases, phases), attributes

    def gather_own_rows(self, dtype: torch.dtype) -> Case:
        attributes = {"activation": self.pick("identity", *ACTIVATIONS), "alpha": 0.2}
        return self.own_rows(dtype, self.pick(1, *CHANNELS)), attributes

    def conv(self, dtype: torch.dtype) -> Case:
        kind = self.pick("plain", "plain", "wide", "wide", "grouped", "depthwise", "depthwise x2")
        group = 1 if kind in ("plain", "wide") else self.pick(2, 3, 16)
        depth = 1 if kind.startswith("depthwise") else self.pick(1, 3, 4, 8, 12, 36, 64, 160)
        wide = self.pick(1, 3, 4, 8, 40, 64, 320)
        if kind == "wide":
            depth, wide = self.pick(36, 64, 128, 320, 512, 1280), self.pick(36, 64, 128, 320, 512)
        outputs = group * {"depthwise": 1, "depthwise x2": 2}.get(kind, wide)
        return self.convolved(self.source(dtype, group * depth), group, outputs)

    def conv_own_rows(self, dtype: torch.dtype) -> Case:
        kind = self.pick("linear", "linear", "linear", "linear", "grouped", "depthwise")
        channels = self.pick(*CHANNELS)
        group = {"linear": 1, "grouped": 3 if channels == 3 else 4, "depthwise": channels}[kind]
        outputs = channels if kind == "depthwise" else group * self.pick(1, 3, 9, 32, 128, 320)
        if kind == "linear":
            outputs = self.pick(*CHANNELS)
        return self.convolved(self.own_rows(dtype, channels), group, outputs)

    def convolved(self, inputs: dict[str, torch.Tensor], group: int, outputs: int) -> Case:
        """A source with a weight and, each in half of the cases, the inputs of the epilogue."""
        (batch, targets, channels), dtype = inputs["rows"].shape, inputs["rows"].dtype
        targets, taps = inputs["table"].shape if "table" in inputs else (targets, 1)
        depth = channels // group
        # The sum of taps * depth products stays of order 1.
        inputs["weight"] = self.values(dtype, taps, depth, outputs) * (taps * depth) ** -0.5
        for name, shape in (
            ("bias", (outputs,)),
            ("embedding", (self.pick(1, batch), 1, outputs)),
            ("multiplier", (batch, targets, outputs)),
            ("residual", (batch, targets, outputs)),
        ):
            if self.random.random() < 0.5:
                inputs[name] = self.values(dtype, *shape)
        attributes = {
            "group": group,
            "activation_in": self.pick("identity", *ACTIVATIONS),
            "alpha_in": 0.2,
            "activation_out": self.pick("identity", "relu", *ACTIVATIONS),
            "alpha_out": 0.3,
        }
        return inputs, attributes

    def conv_norm(self, dtype: torch.dtype) -> Case:
        """Rows divided by their deviation, of mean 0 or 3; the weight is centred as the exporter does it."""
        channels = self.pick(3, 36, 64, 320, 640, 1280)
        return self.normed(self.linear(dtype, channels, self.pick(3, 40, 320, 640, 1280)))

    def conv_gated(self, dtype: torch.dtype) -> Case:
        """A product whose second half gates the first: of rows, normed or not, or of neighbours."""
        kind = self.pick("rows", "rows", "normed", "normed", "normed", "neighbours")
        channels = self.pick(3, 36, 64, 320, 640, 1280)
        inputs, attributes = self.linear(dtype, channels, 2 * self.pick(1, 12, 64, 160, 640, 1280, 2560))
        if kind == "neighbours":
            outputs = 2 * self.pick(3, 8, 40, 128)
            inputs, attributes = self.convolved(self.source(dtype, self.pick(3, 8, 64, 320)), 1, outputs)
        case = self.gated((inputs, attributes))
        return self.normed(case) if kind == "normed" else case

    def conv_affine(self, dtype: torch.dtype) -> Case:
        """A product of few rows without a table, of one source or two, with scale, shift or an activation of
        the input; a tile may have rows of several images."""
        most = 40 if self.small else 300
        batch, rows = self.pick(1, 2, 3), self.random.randint(1, self.pick(8, most // 3, most))
        channels = self.pick(8, 40, 72, 128, 320, 640, 1280, 2560)
        inputs = {"rows": self.values(dtype, batch, rows, channels)} | self.affine(dtype, batch, channels)
        inputs, attributes = self.convolved(inputs, 1, self.pick(8, 40, 64, 144, 320, 640, 1280))
        attributes["activation_in"] = self.pick("identity", "identity", "silu", "silu", *ACTIVATIONS)
        attributes["activation_out"] = self.pick("identity", "relu", "silu")  # unbounded, as sums are large
        case = self.gated((inputs, attributes)) if self.pick(False, False, True) else (inputs, attributes)
        two = channels >= 128 and self.pick(False, False, True)
        return self.two_sources(case, channels // 128 * 64) if two else case

    def linear(self, dtype: torch.dtype, channels: int, columns: int) -> Case:
        """A product of rows as they are."""
        batch, rows = self.pick(1, 2), self.pick(*(ROWS[:8] if self.small else ROWS))
        inputs, attributes = self.convolved({"rows": self.values(dtype, batch, rows, channels)}, 1, columns)
        return inputs, attributes | {"activation_in": "identity"}

    def gated(self, case: Case) -> Case:
        """The same case, where the second half of the columns gates the first."""
        inputs, attributes = case
        outputs = inputs["weight"].shape[2] // 2
        inputs.pop("embedding", None)
        for name in ("multiplier", "residual"):
            if name in inputs:
                inputs[name] = inputs[name][..., :outputs].clone()
        gate = self.pick("gelu", "gelu", *(name for name in ACTIVATIONS if name != "leaky_relu"))
        return inputs, attributes | {"gate": gate}

    def normed(self, case: Case) -> Case:
        """The same case with a row norm, and for it rows of mean 0 or 3 and a centred weight."""
        inputs, attributes = case
        if set_apart(inputs["rows"]):
            unbounded = "identity", "relu", "silu"  # as sums are large
            attributes["activation_out"] = self.pick(*unbounded)
        inputs["rows"] += self.pick(0.0, 3.0)
        inputs["weight"] -= inputs["weight"].double().mean(dim=1, keepdim=True).to(inputs["weight"].dtype)
        return inputs, attributes | {"norm_epsilon": self.pick(1e-5, 1e-5, 0.5)}

    def two_sources(self, case: Case, first: int) -> Case:
        """The same case, where the source's channels after the first ones are a second one."""
        inputs, attributes = dict(case[0]), case[1]
        for name in ("rows", "base"):
            if name in inputs:
                whole = inputs[name]
                inputs[name], inputs[f"{name}_2"] = whole[..., :first].clone(), whole[..., first:].clone()
        return inputs, attributes

    def gather_two(self, dtype: torch.dtype) -> Case:
        first, second = self.pick(*SPLITS)
        attributes = {"activation": self.pick("identity", *ACTIVATIONS), "alpha": 0.2, "pad_value": 1.5}
        source = self.pick(self.source, self.source, self.own_rows)
        return self.two_sources((source(dtype, first + second), attributes), first)

    def conv_two(self, dtype: torch.dtype) -> Case:
        kind = self.pick("plain", "plain", "plain", "rows", "rows", "grouped", "depthwise")
        first, second = self.pick(*SPLITS)
        channels = first + second
        group = {"grouped": 4 if channels % 4 == 0 else channels, "depthwise": channels}.get(kind, 1)
        outputs = channels if kind == "depthwise" else group * self.pick(1, 8, 32)
        if group == 1:
            outputs = self.pick(8, 40, 128, 256, 512)
        inputs = self.own_rows(dtype, channels) if kind == "rows" else self.source(dtype, channels)
        return self.two_sources(self.convolved(inputs, group, outputs), first)

    def scatter(self, dtype: torch.dtype) -> Case:
        batch, pixels, channels = self.pick(1, 2), self.random.randint(1, 200), self.pick(1, 3, 8, 64)
        active = self.active(pixels)
        by_pixel = self.values(dtype, batch, pixels, channels)
        inputs = {
            "base": self.values(dtype, batch, pixels, channels),
            "rows": by_pixel[:, active.long()].contiguous(),
            "active": active,
        }
        return inputs, {}

    def attention(self, dtype: torch.dtype) -> Case:
        batch, heads = self.pick(1, 2), self.pick(1, 2, 5)
        dk = self.pick(1, 8, 12, 40, 64, 80, 128, 160, 256, 300, 512)
        dv = self.pick(dk, dk, 1, 20, 64, 130, 320)
        pixels = self.pick(1, 31, 64, 65, self.random.randint(1, 150 if self.small else 900))
        active = self.active(pixels)
        kind = self.pick("any", "any", "wide", "deep", "broad")
        if kind == "wide":  # few rows of one wide head
            batch, heads, pixels = 1, 1, self.pick(64, 255, 256, 257)
            dk = dv = self.pick(512, 512, 640) if dtype == torch.float16 else 512
            active = self.active(pixels)[: self.random.randint(1, 64)]
        elif kind == "deep" and not self.small:  # more keys than a block looks up at once
            heads, pixels, dk = self.pick(1, 2), self.random.randint(9000, 12000), self.pick(40, 160, 256)
            dv, active = dk, self.active(pixels)[: self.random.randint(1, 150)]
        elif kind == "broad":  # so many fresh rows that they are laid over the base's beforehand
            heads, dk, pixels = 2, self.pick(8, 40, 64), self.random.randint(1900, 2000)
            dv, active = dk, torch.randperm(pixels)[:1850].sort().values.int().to(self.device)
        keys = self.values(dtype, batch, pixels, heads * dk)
        values = self.values(dtype, batch, pixels, heads * dv)
        inputs = {
            "q": self.values(dtype, batch, active.numel(), heads * dk),
            "k": keys[:, active.long()].contiguous(),
            "v": values[:, active.long()].contiguous(),
            "k_base": self.values(dtype, batch, pixels, heads * dk),
            "v_base": self.values(dtype, batch, pixels, heads * dv),
            "active": active,
        }
        if self.pick(False, False, True):  # keys of another source, as in cross-attention: none is fresh
            inputs |= dict.fromkeys(("k", "v", "active"))
        return inputs, {"heads": heads, "scale": self.pick(0.0, 0.1)}

    def attention_wide_inputs(self, dtype: torch.dtype) -> Case:
        """Attention to parts of wider arrays; q, k and v are often parts of one."""
        inputs, attributes = self.attention(dtype)
        heads, first = attributes["heads"], inputs["q"]
        widths = {name: inputs[f"{name}_base"].shape[2] for name in ("k", "v")}
        attributes |= {"dk": widths["k"] // heads, "dv": widths["v"] // heads}
        fresh = ["q"] if inputs["active"] is None else ["q", "k", "v"]
        groups = [fresh] if self.pick(False, True, True) else [[name] for name in fresh]
        unit = self.pick(1, 8, 8)  # of offsets and strides: vectors of 16 bytes fit or not
        for names in (*groups, ["k_base"], ["v_base"]):
            parts: list[torch.Tensor] = []
            shape = (first if names[0] in fresh else inputs["k_base"]).shape[:2]
            for name in names:
                parts.append(self.values(dtype, *shape, unit * self.random.randint(0, 4)))
                attributes[f"{name}_offset"] = sum(part.shape[2] for part in parts)
                parts.append(inputs[name])
            parts.append(self.values(dtype, *shape, -sum(part.shape[2] for part in parts) % unit))
            inputs |= dict.fromkeys(names, torch.cat(parts, 2))
        return inputs, attributes
