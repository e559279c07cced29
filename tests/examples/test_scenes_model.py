"""The scenes model as trained: pictures of captions, read by the reader."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from sige_deploy.scenes.captions import understand
from sige_deploy.scenes.data import HELD_OUT
from sige_deploy.scenes.drawing import draw
from sige_deploy.scenes.evaluation import generate
from sige_deploy.scenes.measures import check, look, shares
from sige_deploy.scenes.networks import FOLDER, MODEL, READER, load_pipeline
from sige_deploy.scenes.reader import Reader, load_reader
from sige_deploy.scenes.spec import random_scene

LARGEST = 16 * 2**20  # bytes of a file in the repository


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader(READER)


def test_the_reader_sees_what_is_drawn(reader: Reader) -> None:
    checks = []
    for seed in range(HELD_OUT + 1000, HELD_OUT + 1012):
        picture, _ = draw(random_scene(seed))
        checks.append(check(picture, look(reader, [picture])[0], random_scene(seed).content))
    assert all(share > 0.9 for share in shares(checks).values())


def test_pictures_show_what_their_captions_say(reader: Reader) -> None:
    captions = [
        "a red house by a lake",
        "a green tree in the mountains at sunset with a white car",
    ]
    pictures = generate(load_pipeline(), captions, range(len(captions)), steps=6)
    for caption, picture, seen in zip(captions, pictures, look(reader, pictures)):
        found = check(picture, seen, understand(caption))
        assert all(found.values()), (caption, found)


def test_the_model_is_whole_and_small_and_its_metrics_are_on_its_card() -> None:
    files = [READER, *(file for file in MODEL.rglob("*") if file.is_file())]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}
    assert max(file.stat().st_size for file in files) < LARGEST
    metrics = json.loads((FOLDER / "metrics.json").read_text())
    card = (FOLDER / "MODEL_CARD.md").read_text()
    shown = [metrics["generated"][key] for key in ("object", "colour", "second", "second_colour", "side")]
    shown += [
        metrics[edit][key] for edit in ("recoloured", "tree_added") for key in ("right", "area_kept_mean")
    ]
    for share in shown:
        assert f"{100 * share:.1f} %" in card
