"""sige-deploy run: a run's folder from record to committed edits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sige_deploy as sige
from sige_deploy.cli.app import app

from .conftest import stroke


def called(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["run", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def recorded(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its picture; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    text = called(
        "record", pipeline_folder, folder / "run", "--prompt", "a cat", "--steps", 3, "--seed", 4,
        "--guidance", 2, "--out", folder / "picture.png", "--threads", 1,
    )  # fmt: skip
    assert "recorded 3 steps of ddim; states: 3 device" in text and f"saved to {folder / 'run'}" in text
    return folder


def test_record_and_show(recorded: Path, pipeline_folder: Path) -> None:
    shown = json.loads(called("show", recorded / "run", "--json"))
    assert (shown["prompt"], shown["steps"], shown["seed"], shown["scheduler"]) == ("a cat", 3, 4, "ddim")
    assert shown["states"] == {"exact": 3} and shown["committed"] is False
    assert "a cat" in called("show", recorded / "run")
    with (
        sige.open_pipeline(pipeline_folder, threads=1) as pipeline,
        pipeline.record("a cat", steps=3, seed=4, guidance=2.0) as own,
    ):
        np.testing.assert_array_equal(pixels(recorded / "picture.png"), own.picture)


def test_edits_and_commits(recorded: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    before = pixels(recorded / "picture.png")
    Image.fromarray(stroke(before)).save(tmp_path / "painted.png")
    mask = np.zeros(before.shape[:2], bool)
    mask[20:26, 20:28] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    ends = "--threads", 1
    run, out = recorded / "run", tmp_path / "out.png"
    text = called(
        "sdedit", pipeline_folder, run, "--picture", tmp_path / "painted.png", "--out", out, "--save",
        tmp_path / "one", *ends,
    )  # fmt: skip
    assert "sparse steps" in text and f"committed to {tmp_path / 'one'}" in text
    first = pixels(out)
    same = (stroke(before) == before).all(axis=-1)
    assert (first[same] == before[same]).all() and (first != before).any()
    called(
        "inpaint", pipeline_folder, tmp_path / "one", "--mask", tmp_path / "mask.png", "--prompt", "a dog",
        "--out", out, *ends,
    )  # fmt: skip
    assert (pixels(out)[~mask] == first[~mask]).all() and (pixels(out)[mask] != first[mask]).any()
    region_options = "--warmup", 0.34, "--keep", 0.34, "--grow", 1
    text = called(
        "text-edit", pipeline_folder, run, "--prompt", "a red dog", "--preview", tmp_path / "region.png",
        *region_options, *ends,
    )  # fmt: skip
    assert "region:" in text and "Edit" not in text
    called(
        "text-edit", pipeline_folder, run, "--prompt", "a red dog", *region_options, "--out", out, "--mask",
        tmp_path / "mask.png", "--union", *ends,
    )  # fmt: skip
    region = (pixels(tmp_path / "region.png") > 0).all(axis=-1) | mask
    outside = ~np.kron(region.reshape(16, 2, 16, 2).any(axis=(1, 3)), np.ones((2, 2), bool))
    assert (pixels(out)[outside] == before[outside]).all()
    assert json.loads(called("show", tmp_path / "one", "--json"))["committed"] is True
    assert "unet" in called("drift", pipeline_folder, tmp_path / "one", *ends)


def test_states_on_the_disk(recorded: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    text = called(
        "record", pipeline_folder, tmp_path / "run", "--prompt", "a cat", "--steps", 3, "--seed", 4,
        "--guidance", 2, "--device-memory", 0, "--host-memory", 0, "--disk-memory", 1, "--threads", 1,
    )  # fmt: skip
    assert "states: 3 disk" in text and [file.name for file in tmp_path.iterdir()] == ["run"]
    mask = np.ones((32, 32), bool)
    np.save(tmp_path / "mask.npy", mask)
    pictures = []
    for run in (tmp_path / "run", recorded / "run"):
        called(
            "inpaint", pipeline_folder, run, "--mask", tmp_path / "mask.npy", "--out", tmp_path / "out.png",
            "--seed", 1, "--threads", 1,
        )  # fmt: skip
        pictures.append(pixels(tmp_path / "out.png"))
    np.testing.assert_array_equal(*pictures)


def test_mistakes(recorded: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    out = "--out", tmp_path / "out.png"
    for words in (
        ("inpaint", pipeline_folder, tmp_path, "--mask", recorded / "picture.png", *out),
        ("inpaint", pipeline_folder, recorded / "run", "--mask", tmp_path / "none.png", *out),
        ("sdedit", tmp_path, recorded / "run", "--picture", recorded / "picture.png", *out),
        ("record", pipeline_folder, tmp_path / "run", "--storage", "int4"),
        (
            "inpaint",
            pipeline_folder,
            recorded / "run",
            "--mask",
            recorded / "picture.png",
            *out,
            "--control",
            recorded / "picture.png",
        ),
        ("record", pipeline_folder, tmp_path / "run", "--steps", 1, "--out", tmp_path / "picture.xyz"),
        ("record", pipeline_folder, tmp_path / "run", "--steps", 1, "--out", tmp_path / "none" / "a.png"),
        ("record", pipeline_folder, pipeline_folder, "--steps", 1),
        ("record", pipeline_folder, recorded / "picture.png", "--steps", 1),
        ("show", tmp_path),
    ):
        sentence = called(*words, code=1)
        assert sentence.startswith("error: ") and sentence.count("\n") == 1, sentence
    assert not list(tmp_path.iterdir())  # known before anything ran
    for option in ("--host-memory", "--device-memory", "--disk-memory"):
        for value in ("nan", "inf", -1):
            usage = called("record", pipeline_folder, tmp_path / "run", option, value, code=2)
            assert "no count of GB" in usage
    usage = called("text-edit", pipeline_folder, recorded / "run", "--prompt", "a", *out, "--union", code=2)
    assert "goes with --mask" in usage
    usage = called("text-edit", pipeline_folder, recorded / "run", "--prompt", "a dog", code=2)
    assert "--out" in usage
