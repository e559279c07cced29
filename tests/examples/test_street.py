"""The street example: scenes, pictures, the demo's edits, and the trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sige_deploy.errors import ExportError
from sige_deploy.street.demo_scene import CHANNELS, demo_scene, one_hot
from sige_deploy.street.drawing import draw_labels
from sige_deploy.street.labels import CLASSES, GROUND, HEIGHT, SHADE, WIDTH, Label, palette
from sige_deploy.street.network import WEIGHTS, encode, load_street_generator, street_generator
from sige_deploy.street.planes import PLANES, planes
from sige_deploy.street.rendering import render
from sige_deploy.street.scenes import random_edit, random_scene
from sige_deploy.street.train import HELD_OUT, evaluate, pyramid_loss, save, still_loss

SEEDS = range(HELD_OUT, HELD_OUT + 12)


def batch(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels)[None]


@pytest.mark.parametrize("seed", SEEDS)
def test_label_maps_are_valid_and_determined_by_the_seed(seed: int) -> None:
    labels = draw_labels(random_scene(seed))
    assert labels.shape == (HEIGHT, WIDTH)
    assert labels.dtype == np.uint8
    assert (labels % SHADE).max() < CLASSES
    assert {Label.SKY, Label.GRASS, Label.ROAD} <= set(np.unique(labels))
    np.testing.assert_array_equal(labels, draw_labels(random_scene(seed)))
    assert (labels != draw_labels(random_scene(seed + 1))).mean() > 0.05


def test_random_edits_change_a_part() -> None:
    shares = []
    for seed in SEEDS:
        scene = random_scene(seed)
        shares.append((draw_labels(scene) != draw_labels(random_edit(scene, seed))).mean())
    assert max(shares) < 0.6
    assert np.count_nonzero(shares) > len(shares) / 2  # things hidden behind others leave no trace


def test_shadows_fall_on_the_ground_beside_upright_things() -> None:
    labels = draw_labels(random_scene(HELD_OUT))
    shaded = labels[labels >= SHADE] % SHADE
    assert np.isin(shaded, GROUND).any()


def test_pictures_are_a_local_function_of_the_labels() -> None:
    labels = draw_labels(random_scene(HELD_OUT))
    picture = render(batch(labels))
    assert picture.shape == (1, 3, HEIGHT, WIDTH)
    assert picture.abs().max() <= 1
    torch.testing.assert_close(picture, render(batch(labels)), rtol=0, atol=0)
    edited = labels.copy()
    edited[100:140, 200:260] = Label.CROWN
    changed = (render(batch(edited)) != picture).any(1)[0]
    assert changed[100:140, 200:260].float().mean() > 0.9
    changed[100 - 13 : 140 + 13, 200 - 13 : 260 + 13] = False
    assert not changed.any()


def test_every_class_has_its_own_colour() -> None:
    classes = np.arange(CLASSES, dtype=np.uint8)
    drawn = render(
        batch(np.repeat(classes, -(-HEIGHT // CLASSES))[:HEIGHT, None] + np.zeros((1, WIDTH), np.uint8))
    )
    assert len({tuple(colour) for colour in palette[:CLASSES]}) == CLASSES
    assert drawn.isfinite().all()


def test_texture_planes_are_those_of_training() -> None:
    fields = planes()
    assert fields.shape == (len(PLANES), HEIGHT, WIDTH)
    assert fields.dtype == np.float32
    expected = [0.0, 0.00134, 0.27844, -0.17205, -0.26528, -0.01414, -0.00251]
    np.testing.assert_allclose(fields.mean((1, 2)), expected, atol=1e-4)


def test_both_encodings_agree() -> None:
    labels = draw_labels(random_scene(HELD_OUT + 3))
    encoded = one_hot(labels)
    assert encoded.shape == (1, CHANNELS, HEIGHT, WIDTH)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, encode(batch(labels)).numpy())
    assert (encoded[0, :CLASSES].sum(0) == 1).all()


def test_demo_edits_grow() -> None:
    base, edits = demo_scene()
    assert [name for name, _ in edits] == ["tree moved", "house added", "road widened"]
    shares = [(labels != base).mean() for _, labels in edits]
    for share, (low, high) in zip(shares, [(0.01, 0.03), (0.04, 0.08), (0.15, 0.30)]):
        assert low <= share <= high


def test_network_is_small() -> None:
    assert WEIGHTS.stat().st_size <= 16 * 2**20
    with torch.device("meta"):
        assert sum(p.numel() for p in street_generator().parameters()) == 3_989_347


def test_network_draws_held_out_scenes() -> None:
    model = load_street_generator()
    assert not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())
    labels = torch.from_numpy(np.stack([draw_labels(random_scene(seed)) for seed in SEEDS[:2]]))
    scores = evaluate(model, labels)
    assert scores["psnr_worst_db"] > 45


def test_saved_weights_load_again(tmp_path: Path) -> None:
    model = street_generator().eval()
    save(model, tmp_path / "street.safetensors")
    loaded = load_street_generator(tmp_path / "street.safetensors").state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-6)


def test_unusable_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no checkpoint"):
        load_street_generator(tmp_path / "absent.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(WEIGHTS.read_bytes()[:5000])
    with pytest.raises(ExportError, match="not a readable safetensors file"):
        load_street_generator(damaged)


def test_losses_see_what_they_should() -> None:
    labels = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    labels[1, 100:110, 100:110] = 4
    pictures = torch.zeros(2, 3, HEIGHT, WIDTH)
    pictures[1, :, 95:115, 95:115] = 1.0  # near the edit: allowed
    assert still_loss(pictures, labels) == 0
    pictures[1, :, 200, 200] = 1.0
    assert still_loss(pictures, labels) > 0
    assert pyramid_loss(pictures[:1], pictures[:1]) == 0
    assert pyramid_loss(pictures[:1], pictures[1:]) > 0
