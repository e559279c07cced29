"""The scenes example: drawn pictures, their labels, and captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sige_deploy.scenes.captions import OPENINGS, plain_caption, random_caption, understand
from sige_deploy.scenes.data import HELD_OUT
from sige_deploy.scenes.drawing import LABEL_SIZE, SIZE, draw
from sige_deploy.scenes.light import PAINT, lit, paints
from sige_deploy.scenes.pen import LABELS, body, other
from sige_deploy.scenes.spec import COLOURS, KINDS, PLACES, SECONDS, WATER, WEATHERS, Scene, random_scene

SEEDS = range(HELD_OUT, HELD_OUT + 8)
HOUSE = understand("a red house by a lake")


def enlarged(mask: np.ndarray) -> np.ndarray:
    """A label map's mask at the picture's size, with the cells around it."""
    padded = np.pad(mask, 2)
    near = np.any([np.roll(padded, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)], axis=0)[
        2:-2, 2:-2
    ]
    step = SIZE // LABEL_SIZE
    return near.repeat(step, 0).repeat(step, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_pictures_are_determined_by_the_seed(seed: int) -> None:
    picture, labels = draw(random_scene(seed))
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    assert labels.shape == (LABEL_SIZE, LABEL_SIZE) and labels.max() < LABELS
    again, _ = draw(random_scene(seed))
    np.testing.assert_array_equal(picture, again)
    assert (picture != draw(random_scene(seed + 1))[0]).mean() > 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_show_every_object_of_the_content_and_no_other(seed: int) -> None:
    scene = random_scene(seed)
    labels = draw(scene)[1]
    shown = {KINDS[(label - 1) // 2] for label in np.unique(labels) if label}
    assert shown == {scene.content.kind, scene.content.second} - {""}


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_painted_part_has_the_lit_colour_of_its_word(kind: str, weather: str) -> None:
    scene = random_scene(HELD_OUT)
    for colour in ("red", "white"):
        content = replace(HOUSE, kind=kind, colour=colour, weather=weather, place="lake")
        picture, labels = draw(Scene(content, scene.layout))
        rows, columns = np.nonzero(labels == body(kind))
        assert len(rows) > 12
        median = np.median(picture[4 * rows + 2, 4 * columns + 2], 0)
        np.testing.assert_allclose(median, lit(PAINT[colour], weather), atol=2)


def test_a_new_colour_changes_its_object_alone() -> None:
    for seed in SEEDS:
        scene = random_scene(seed)
        colour = COLOURS[COLOURS.index(scene.content.colour) - 3]
        before, labels = draw(scene)
        after, same = draw(scene.recoloured(colour))
        np.testing.assert_array_equal(labels, same)
        changed = (before != after).any(2)
        kind = scene.content.kind
        assert 0 < changed.mean() < 0.2
        assert not changed[~enlarged((labels == body(kind)) | (labels == other(kind)))].any()


def test_a_second_object_changes_its_surroundings_alone() -> None:
    for seed in SEEDS:
        scene = Scene(HOUSE, random_scene(seed).layout)
        before, _ = draw(scene)
        after, labels = draw(scene.with_second("tree", "green"))
        changed = (before != after).any(2)
        near = enlarged((labels == body("tree")) | (labels == other("tree")))
        assert changed.any()
        assert changed[~near].mean() < 0.003  # its shadow reaches a little farther


def test_the_layout_does_not_depend_on_words_of_colour() -> None:
    counts = np.zeros(4)
    for seed in range(400):
        scene = random_scene(seed)
        counts[int(4 * scene.layout.x)] += 1
        content = scene.content
        assert content.kind != "boat" or content.place in WATER
        assert content.second != "boat" or content.place in WATER
        assert content.second in ("", *SECONDS) and content.second != content.kind
    assert counts.min() > 70


def test_paints_stay_apart_in_every_weather() -> None:
    for weather in WEATHERS:
        colours = paints(weather)
        distance = np.sqrt(np.square(colours[:, None] - colours[None]).sum(2))
        assert distance[~np.eye(len(COLOURS), dtype=bool)].min() > 18


def test_captions_say_the_whole_content() -> None:
    seen = set()
    for seed in range(600):
        content = random_scene(seed).content
        caption = random_caption(content, np.random.default_rng(seed))
        assert understand(caption) == content
        assert understand(plain_caption(content)) == content
        assert caption == caption.lower() and len(caption.split()) < 24
        seen.add(caption)
    assert len(seen) > 580
    assert any(caption.startswith(OPENINGS[1]) for caption in seen)


def test_the_same_content_is_worded_in_many_ways() -> None:
    content = replace(HOUSE, second="tree", second_colour="green", weather="rain", size="small")
    captions = {random_caption(content, np.random.default_rng(seed)) for seed in range(200)}
    assert len(captions) > 60


def test_plain_captions_are_the_demos() -> None:
    assert plain_caption(HOUSE) == "a red house by a lake"
    blue = replace(HOUSE, colour="blue", second="tree", second_colour="green")
    assert plain_caption(blue) == "a blue house by a lake with a tree"
    assert understand("An orange tower, by the sea, at night").kind == "tower"


@pytest.mark.parametrize("caption", ["", "a red house", "by a lake", "a crimson zebra"])
def test_captions_without_object_or_place_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="must name an object"):
        understand(caption)


def test_every_place_looks_different() -> None:
    layout = random_scene(HELD_OUT).layout
    pictures = [draw(Scene(replace(HOUSE, place=place), layout))[0].astype(float) for place in PLACES]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 6
