"""The torch reference itself: what it must do at its limits, and on a chain that numpy can follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checking import reference_of
from reference import Reference
from torch import Tensor, nn
from zoo import ZOO, Entry

Size = tuple[int, int]


def sizes_of(entry: Entry) -> list[Size]:
    """Every (H, W) that the entry's network may have: more levels than there are do no harm."""
    sizes: set[Size] = set()
    for height, width in (entry.inputs[name][-2:] for name in entry.spatial):
        sizes |= {(height // n, width // n) for n in (1, 2, 4)}
    for node in reference_of(entry.name).nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and node.op == "call_function" and _is_spatial_op(str(node.target)):
            sizes.add(tuple(value.shape[-2:]))  # type: ignore[arg-type]
    return sorted(sizes - {(1, 1)})


def _is_spatial_op(target: str) -> bool:
    return any(part in target for part in ("conv", "pool2d", "upsample", "pixel_"))


def outputs(module: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        out = module(**inputs)
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.mark.parametrize("name", ZOO)
def test_nothing_active_returns_the_record(name: str) -> None:
    entry = ZOO[name]
    reference = reference_of(name)
    masks = {size: torch.zeros(size, dtype=torch.bool) for size in sizes_of(entry)}
    recorded, edited = entry.example_inputs(1), entry.example_inputs(2)
    edited |= {name: recorded[name] for name in recorded if name not in entry.spatial}
    for got, want in zip(reference.run(recorded, (edited, masks)), outputs(entry.module(), recorded)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ZOO)
def test_the_record_as_edit_returns_the_record(name: str) -> None:
    entry = ZOO[name]
    reference = reference_of(name)
    generator = torch.Generator().manual_seed(0)
    masks = {size: torch.rand(size, generator=generator) < 0.3 for size in sizes_of(entry)}
    recorded = entry.example_inputs(1)
    for got, want in zip(reference.run(recorded, (recorded, masks)), outputs(entry.module(), recorded)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_all_active_is_dense_but_for_statistics(name: str) -> None:
    entry = ZOO[name]
    reference = reference_of(name)
    masks = {size: torch.ones(size, dtype=torch.bool) for size in sizes_of(entry)}
    recorded, edited = entry.example_inputs(1), entry.example_inputs(2)
    pairs = zip(reference.run(recorded, (edited, masks)), outputs(entry.module(), edited))
    same = [torch.allclose(got, want, rtol=1e-4, atol=1e-5) for got, want in pairs]
    assert all(same) is not entry.statistics


def test_conv_chain_against_loops() -> None:
    """Two 3x3 convs (the second strided) with ReLU, pixel by pixel."""
    torch.manual_seed(3)
    first, second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, stride=2, padding=1)
    module = nn.Sequential(first, nn.ReLU(), second)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, image: Tensor) -> Tensor:
            return self.body(image)

    before, after = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    fine, coarse = torch.rand(6, 8) < 0.4, torch.rand(3, 4) < 0.4
    reference = Reference(Named(), {"image": before}, ["image"])
    (got,) = reference.run({"image": before}, ({"image": after}, {(6, 8): fine, (3, 4): coarse}))

    def pixel(x: np.ndarray, layer: nn.Conv2d, y: int, x0: int) -> np.ndarray:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
        total = bias.astype(np.float64)
        for ky in range(3):
            for kx in range(3):
                sy, sx = y + ky - 1, x0 + kx - 1
                if 0 <= sy < x.shape[1] and 0 <= sx < x.shape[2]:
                    total = total + weight[:, :, ky, kx] @ x[:, sy, sx]
        return total

    mixed = np.where(fine.numpy(), after[0].numpy(), before[0].numpy())
    hidden = [np.zeros((3, 6, 8)), np.zeros((3, 6, 8))]
    out = np.zeros((2, 3, 4))
    for y in range(6):
        for x in range(8):
            old = np.maximum(pixel(before[0].numpy(), first, y, x), 0)
            new = np.maximum(pixel(mixed, first, y, x), 0)
            hidden[0][:, y, x], hidden[1][:, y, x] = old, new if fine[y, x] else old
    for y in range(3):
        for x in range(4):
            out[:, y, x] = pixel(hidden[int(coarse[y, x])], second, 2 * y, 2 * x)
    np.testing.assert_allclose(got[0].numpy(), out, rtol=1e-5, atol=1e-5)


def test_padding_reads_mixed_pixels() -> None:
    """A reflected border shows the edit where the pixel that it mirrors is active."""

    class Padded(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")[:, :, 0, :] * 1.0

    before, after = torch.zeros(1, 1, 4, 5), torch.ones(1, 1, 4, 5)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2] = True
    reference = Reference(Padded(), {"image": before}, ["image"])
    (got,) = reference.run({"image": before}, ({"image": after}, {(4, 5): mask}))
    assert got.flatten().tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_edits_that_do_not_touch_add_up() -> None:
    """Two committed edits far from each other are one edit of both places."""
    entry = ZOO["unet_transposed"]
    left, right = ({size: torch.zeros(size, dtype=torch.bool) for size in sizes_of(entry)} for _ in range(2))
    for size in left:
        left[size][:, 0] = True
        right[size][:, -1] = True
    both = {size: left[size] | right[size] for size in left}
    recorded, edited = entry.example_inputs(1), entry.example_inputs(2)
    reference = reference_of(entry.name)
    (apart,) = reference.run(recorded, (edited, left), (edited, right))
    (at_once,) = reference.run(recorded, (edited, both))
    torch.testing.assert_close(apart, at_once, rtol=1e-4, atol=1e-5)
