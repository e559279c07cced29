"""The picture report: cells stand where they belong and show what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sige_deploy import picture
from sige_deploy.errors import InputError
from sige_deploy.picture import Row


@pytest.fixture
def scene() -> np.ndarray:
    """A picture, uint8 [120, 240, 3]."""
    return np.random.default_rng(0).integers(0, 255, (120, 240, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((120, 240), bool)
    mask[40:60, 100:160] = True
    return mask


def test_an_outline_surrounds_the_mask(scene: np.ndarray, mask: np.ndarray) -> None:
    out = picture.outlined(scene, mask)
    assert np.array_equal(out[mask], scene[mask])
    ring = (out == picture.OUTLINE).all(axis=2)
    assert ring[39, 120] and ring[50, 99] and not ring[mask].any()
    assert np.array_equal(out[:30], scene[:30])
    with pytest.raises(InputError, match="cannot be compared"):
        picture.outlined(scene, mask[:-1])


def test_an_active_map_colours_active_pixels(scene: np.ndarray, mask: np.ndarray) -> None:
    shown = picture.active_map(scene, mask).astype(int)
    red_over_blue = shown[..., 0] - shown[..., 2]
    assert (red_over_blue[mask] > 100).all() and (red_over_blue[~mask] == 0).all()
    coarse = picture.active_map(scene, mask[::10, ::10]).astype(int)
    assert np.array_equal(coarse[..., 0] > coarse[..., 2], mask)


def test_a_difference_is_amplified(scene: np.ndarray) -> None:
    other = scene.copy()
    other[0, 0] ^= 1
    shown = picture.difference(scene, other)
    assert (shown[0, 0] == picture.GAIN).all() and shown[1:].max() == 0
    assert picture.difference(np.zeros_like(scene), np.full_like(scene, 200)).min() == 255


def test_a_panel_holds_every_cell_at_full_width(scene: np.ndarray) -> None:
    red, blue = np.zeros_like(scene), np.zeros_like(scene)
    red[..., 0], blue[..., 2] = 255, 255
    panel = picture.draw_panel(["a", "b"], [Row("one | more", [red, None]), Row("two", ["text", blue])])
    assert panel.dtype == np.uint8 and panel.shape[1] == 2 * picture.MARGIN + 2 * picture.WIDTH + picture.GAP
    reds, blues = ((panel == color).all(axis=2) for color in ([255, 0, 0], [0, 0, 255]))
    assert reds.sum() == blues.sum() == picture.WIDTH * picture.WIDTH // 2
    assert np.flatnonzero(reds.any(axis=0)).max() < np.flatnonzero(blues.any(axis=0)).min()
    assert (panel[:8] == 255).all() and (panel[-8:] == 255).all()


def test_a_report_is_written(scene: np.ndarray, mask: np.ndarray, tmp_path: Path) -> None:
    picture.write_report(tmp_path / "r.png", scene, scene, scene, scene, mask, mask, "edit | 5 ms")
    with Image.open(tmp_path / "r.png") as report:
        assert report.width == 2 * picture.MARGIN + 6 * picture.WIDTH + 5 * picture.GAP
    picture.write_report(tmp_path / "r.jpg", scene, None, scene, scene, mask)
    with pytest.raises(InputError, match="names no picture type"):
        picture.write_report(tmp_path / "r.abc", scene, None, scene, scene, mask)
