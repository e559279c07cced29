"""The measures of generated scenes, on drawn ones: they pass what is right and fail what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")

from sige_deploy.scenes.captions import understand
from sige_deploy.scenes.data import HELD_OUT
from sige_deploy.scenes.drawing import LABEL_SIZE, SIZE, draw
from sige_deploy.scenes.measures import (
    Seen,
    check,
    colour_of,
    colour_word,
    enlarge,
    measure_edit,
    overlap,
    psnr,
    shares,
)
from sige_deploy.scenes.pen import LABELS
from sige_deploy.scenes.reader import Reader, load_reader, save_reader
from sige_deploy.scenes.spec import COLOURS, PLACES, WEATHERS, Scene, random_scene

HOUSE = understand("a red house by a lake")
LAYOUT = random_scene(HELD_OUT).layout


def seen(scene: Scene) -> tuple[np.ndarray, Seen]:
    """The picture of a scene, and what a perfect reader finds in it."""
    picture, labels = draw(scene)
    return picture, Seen(labels, scene.content.place, scene.content.weather)


class PerfectReader(nn.Module):
    """Knows the scenes that it will be shown, in order."""

    def __init__(self, scenes: list[Scene]) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.scenes = iter(scenes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scene = next(self.scenes)
        labels = torch.from_numpy(draw(scene)[1]).long()
        place = torch.eye(len(PLACES))[PLACES.index(scene.content.place)]
        weather = torch.eye(len(WEATHERS))[WEATHERS.index(scene.content.weather)]
        return torch.eye(LABELS)[labels].permute(2, 0, 1)[None], place[None], weather[None]


def test_drawn_scenes_pass_every_check() -> None:
    checks = []
    for seed in range(HELD_OUT, HELD_OUT + 60):
        scene = random_scene(seed)
        picture, found = seen(scene)
        checks.append(check(picture, found, scene.content))
    rates = shares(checks)
    assert set(rates) >= {"object", "colour", "place", "weather", "nothing_else", "second", "side"}
    assert all(rate == 1 for name, rate in rates.items() if name not in ("second", "second_colour"))
    assert rates["second"] > 0.9 and rates["second_colour"] > 0.9  # some stand half hidden


@pytest.mark.parametrize("weather", WEATHERS)
def test_the_colour_check_fails_on_any_other_colour(weather: str) -> None:
    for colour in COLOURS:
        content = replace(HOUSE, colour=colour, weather=weather)
        picture, found = seen(Scene(content, LAYOUT))
        for word in COLOURS:
            assert check(picture, found, replace(content, colour=word))["colour"] == (word == colour)


def test_what_a_caption_does_not_say_is_found_out() -> None:
    with_tree = replace(HOUSE, second="tree", second_colour="green", side="left")
    picture, found = seen(Scene(with_tree, LAYOUT))
    assert all(check(picture, found, with_tree).values())
    assert not check(picture, found, replace(HOUSE, side="left"))["nothing_else"]
    wrong = replace(with_tree, kind="car", side="right", place="sea", weather="night", second="balloon")
    assert not any(check(picture, found, wrong).values())


def test_a_missing_object_has_no_colour() -> None:
    picture, _ = draw(Scene(HOUSE, LAYOUT))
    nothing = Seen(np.zeros((LABEL_SIZE, LABEL_SIZE), np.uint8), "lake", "sunny")
    assert colour_of(picture, nothing, "house", "sunny") is None
    assert nothing.middle("house") is None
    assert colour_word(np.array([205.0, 50, 44]), "sunny") == "red"


def test_psnr_within_a_mask() -> None:
    a = np.full((SIZE, SIZE, 3), 100, np.uint8)
    b = a.copy()
    b[:10] = 110
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:10] = True
    assert psnr(a, b, mask) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(a, b, ~mask) == float("inf")
    assert np.isnan(psnr(a, b, np.zeros_like(mask)))
    assert psnr(a, b) > psnr(a, b, mask)


def test_masks() -> None:
    mask = np.zeros((LABEL_SIZE, LABEL_SIZE), bool)
    mask[10, 20] = True
    assert enlarge(mask).sum() == 16
    assert enlarge(mask, 3).sum() == 100
    assert overlap(mask, mask) == 1
    assert overlap(mask, ~mask) == 0
    assert overlap(~mask & mask, ~mask & mask) == 0


def test_a_drawn_edit_is_measured_as_perfect_and_a_spoilt_one_is_not() -> None:
    red, blue = Scene(HOUSE, LAYOUT), Scene(replace(HOUSE, colour="blue"), LAYOUT)
    before, found = seen(red)
    after, _ = seen(blue)
    mask = enlarge(found.mask("house"), 8)
    result = measure_edit(PerfectReader([red, blue]), before, after, mask, (HOUSE, blue.content))
    assert result.psnr_outside == float("inf")
    assert result.kept == 1 and all(result.checks.values())
    assert result.mask_overlap is not None and result.mask_overlap > 0.5

    noisy = after.copy()
    noisy[:40] = 255 - noisy[:40]
    spoilt = measure_edit(PerfectReader([red, red]), before, noisy, mask, (HOUSE, blue.content))
    assert spoilt.psnr_outside < 20
    kept_red = measure_edit(PerfectReader([red, red]), before, before, mask, (HOUSE, blue.content))
    assert not kept_red.checks["colour"]


def test_an_added_tree_concerns_the_tree_alone() -> None:
    before, after = Scene(HOUSE, LAYOUT), Scene(HOUSE, LAYOUT).with_second("tree", "green")
    picture, found = seen(after)
    mask = enlarge(found.mask("tree"))
    result = measure_edit(
        PerfectReader([before, after]), seen(before)[0], picture, mask, (HOUSE, after.content)
    )
    assert result.mask_overlap == 1
    assert result.checks["second"] and result.checks["second_colour"]


def test_readers_are_saved_and_loaded(tmp_path) -> None:
    torch.manual_seed(0)
    reader = Reader(8).eval()
    save_reader(reader, tmp_path / "reader.safetensors")
    again = load_reader(tmp_path / "reader.safetensors")
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        for a, b in zip(reader(x), again(x)):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.01)
            assert torch.isfinite(a).all()
