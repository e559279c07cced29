"""What an entry of the zoo is, and how its weights are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

MODULES: WeakSet[nn.Module] = WeakSet()
"""Those that entries have made."""


@dataclass(frozen=True)
class Entry:
    """One architecture of the zoo.

    `make` builds the module, `inputs` its example inputs by forward()'s argument names; `spatial` names the
    inputs whose last two axes are Y, X; `config` are arguments of `SparseConfig`; `free` names inputs that
    an edit may change besides; `islands` is how many dense islands the export has to have (None: any);
    `statistics` says whether something reduced over space returns into it; `tolerance` is relative to the
    range of the output.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    spatial: tuple[str, ...] = ("image",)
    config: dict[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    islands: int | None = 0
    statistics: bool = False
    tolerance: float = 1e-4

    def module(self) -> nn.Module:
        """Always the same one; not to be changed."""
        return self._module

    @cached_property
    def _module(self) -> nn.Module:
        torch.manual_seed(0)
        module = self.make().eval()
        enliven(module)
        MODULES.add(module)
        return module

    def example_inputs(self, seed: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=generator) for name, shape in self.inputs.items()}


ZOO: dict[str, Entry] = {}


def entry(
    name: str, inputs: dict[str, tuple[int, ...]], **kwargs: Any
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: registers the module under `name`."""

    def register(make: type[nn.Module]) -> type[nn.Module]:
        add(name, make, inputs, **kwargs)
        return make

    return register


def add(name: str, make: Callable[[], nn.Module], inputs: dict[str, tuple[int, ...]], **kwargs: Any) -> None:
    assert name not in ZOO, name
    ZOO[name] = Entry(name, make, inputs, **kwargs)


@torch.no_grad()
def enliven(module: nn.Module) -> None:
    """Random weights of unit gain, and norms whose affine and running statistics are not trivial."""
    for child in module.modules():
        if isinstance(child, (nn.modules.conv._ConvNd, nn.Linear)):
            fan_in = child.weight[0].numel()
            if isinstance(child, nn.ConvTranspose2d):
                taps = child.weight[0, 0].numel() // math.prod(child.stride)
                fan_in = child.in_channels // child.groups * max(1, taps)
            child.weight.normal_(0, 1.3 / math.sqrt(fan_in))
            if child.bias is not None:
                child.bias.normal_(0, 0.2)
        elif isinstance(child, (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)):
            if child.weight is not None:
                child.weight.normal_(1, 0.2)
                child.bias.normal_(0, 0.2)
            if getattr(child, "running_var", None) is not None:
                child.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                child.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]


def conv(cin: int, cout: int, k: int = 3, **kwargs: Any) -> nn.Conv2d:
    kwargs.setdefault("padding", k // 2 * kwargs.get("dilation", 1))
    return nn.Conv2d(cin, cout, k, **kwargs)
