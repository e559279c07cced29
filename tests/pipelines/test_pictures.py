"""Soft edges stay inside the mask, and masks of latents hold those of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sige_deploy.errors import InputError
from sige_deploy.pipelines import pictures


def test_feathered_edges_are_inside() -> None:
    rng = np.random.default_rng(0)
    for feather in (0, 1, 5):
        mask = np.zeros((40, 50), bool)
        mask[10:30, 0:25] = True  # at the border there is no edge
        mask[35, 40] = True
        weight = pictures.feathered(mask, feather)
        assert (weight[~mask] == 0).all() and (weight[mask] > 0).all() and weight.max() <= 1
        assert weight[20, 0] == 1 and weight[10, 0] == np.float32(1 / (feather + 1))
        assert weight[35, 40] == np.float32(1 / (feather + 1))
        before, after = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
        mixed = pictures.composite(before, after, weight)
        assert (mixed[~mask] == before[~mask]).all()
        assert (mixed[weight == 1] == after[weight == 1]).all()
        low, high = np.minimum(before, after), np.maximum(before, after)
        assert ((mixed >= low) & (mixed <= high)).all()


def test_blending_in_the_mask_alone_is_the_same() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
    image = pictures.to_network(after, "float16")
    boxes = [np.s_[0:1, 0:1], np.s_[10:30, 5:25], np.s_[33:40, 0:50], np.s_[0:40, 0:50]]
    for number in range(1, len(boxes) + 1):
        mask = np.zeros((40, 50), bool)
        for box in boxes[:number]:
            mask[box] = True
        mask[20, 12] = number > 3
        for feather in (0, 3):
            wanted = pictures.composite(
                before, pictures.from_network(image), pictures.feathered(mask, feather)
            )
            np.testing.assert_array_equal(pictures.blended(before, image, mask, feather), wanted)


def test_what_differs() -> None:
    picture = np.random.default_rng(3).integers(0, 255, (6, 7, 3), np.uint8)
    other = picture.copy()
    for place in ((0, 0, 0), (2, 3, 1), (5, 6, 2)):
        other[place] += 1
    assert np.argwhere(pictures.changed(picture, other)).tolist() == [[0, 0], [2, 3], [5, 6]]
    assert pictures.box_of(pictures.changed(picture, other)) == np.s_[0:6, 0:7]
    assert pictures.box_of(pictures.changed(picture, picture)) == np.s_[0:0, 0:0]


def test_latents_hold_their_pixels() -> None:
    mask = np.zeros((16, 24), bool)
    mask[3, 7] = mask[8, 8] = True
    latents = pictures.to_latents(mask, 4)
    assert np.argwhere(latents).tolist() == [[0, 1], [2, 2]]
    assert (pictures.to_pixels(latents, 4) >= mask).all()


def test_to_the_network_and_back() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
    for dtype in ("float32", "float16"):
        np.testing.assert_array_equal(pictures.from_network(pictures.to_network(picture, dtype)), picture)
    assert pictures.from_network(np.full((1, 3, 2, 2), 7.0, np.float32)).max() == 255


def test_what_is_refused() -> None:
    picture = np.zeros((8, 12, 3), np.uint8)
    assert pictures.checked_picture(Image.fromarray(picture), 8, 12).shape == (8, 12, 3)
    for wrong in (picture[:4], picture.astype(np.float32), "a.png", picture[..., 0]):
        with pytest.raises(InputError, match="Pillow image of 12 x 8 pixels"):
            pictures.checked_picture(wrong, 8, 12)
    for wrong in (np.zeros((8, 12)), np.zeros((8, 11), bool), None):
        with pytest.raises(InputError, match=r"bool \[8, 12\]"):
            pictures.checked_mask(wrong, 8, 12)
