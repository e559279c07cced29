"""sige-deploy record, edit and compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sige_deploy as sige

from .conftest import Sige


def image(path: Path) -> np.ndarray:
    values = np.asarray(Image.open(path)).transpose(2, 0, 1)[None]
    return (values * (2 / 255) - 1).astype(np.float32)


@pytest.fixture
def session(three: Path, files: Path) -> sige.Session:
    """A session with the same state as `recorded`."""
    session = sige.open(three, threads=1)
    session.record(image=image(files / "original.png"), gain=np.ones((1, 3, 1, 1), np.float32))
    return session


def test_record_writes_what_the_session_gives(
    cli: Sige, three: Path, files: Path, tmp_path: Path, session: sige.Session
) -> None:
    done = cli(
        "record", three, "-i", f"image={files / 'original.png'}", "-i", "gain=1", "--save", tmp_path / "s",
        "--out", tmp_path / "out", "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    expected = session.edit(image=image(files / "original.png"), gain=np.ones((1, 3, 1, 1), np.float32))
    np.testing.assert_allclose(np.load(tmp_path / "out/picture.npy"), expected["picture"], atol=1e-6)
    pixels = np.asarray(Image.open(tmp_path / "out/picture.png"))
    assert np.abs(pixels.transpose(2, 0, 1) - (expected["picture"][0] + 1) * 127.5).max() <= 0.51


@pytest.mark.parametrize("masked", [False, True])
def test_edit_gives_what_the_session_gives(
    cli: Sige, three: Path, files: Path, recorded: Path, tmp_path: Path, session: sige.Session, masked: bool
) -> None:
    mask = ["--mask", files / "mask.png"] if masked else []
    done = cli(
        "edit", three, "--load", recorded, "-i", f"image={files / 'edited.png'}", "--out", tmp_path, *mask
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "sparse" in done.out and "rows at 32x32" in done.out and "run / ms" in done.out
    expected = session.edit(image=image(files / "edited.png"), gain=np.ones((1, 3, 1, 1), np.float32))
    np.testing.assert_allclose(np.load(tmp_path / "picture.npy"), expected["picture"], atol=1e-5)


def test_edit_commits_and_reports(
    cli: Sige, three: Path, files: Path, recorded: Path, tmp_path: Path
) -> None:
    state, report = tmp_path / "after.safetensors", tmp_path / "report.png"
    words = ["edit", three, "-i", f"image={files / 'edited.png'}", "--out", tmp_path]
    done = cli(*words, "--load", recorded, "--report", report, "--commit", "--save", state)
    assert done.code == 0, done.err
    assert Image.open(report).width > 1000
    assert "reuse" in cli(*words, "--load", state).out
    plain = cli(*words, "--load", recorded)
    assert plain.code == 0 and "sparse" in plain.out


def test_npz_and_npy_inputs(cli: Sige, three: Path, files: Path, recorded: Path, tmp_path: Path) -> None:
    edited = image(files / "edited.png")
    np.save(tmp_path / "a.npy", edited)
    np.savez(tmp_path / "b.npz", image=edited, other=edited)
    for name in ("a.npy", "b.npz"):
        done = cli(
            "edit", three, "--load", recorded, "-i", f"image={tmp_path / name}", "--out", tmp_path / name[0]
        )
        assert done.code == 0, done.err
    assert (tmp_path / "a/picture.npy").read_bytes() == (tmp_path / "b/picture.npy").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-i", "image=FILES/absent.png"), "there is no file"),
        (("-i", "image=FILES/absent.npy"), "cannot read"),
        (("-i", "image=FILES/small.png"), "32x16 pixels; input 'image' takes 32x32"),
        (("-i", "image=FILES/recorded.safetensors"), "has no known type"),
        (("-i", "image=cat"), "neither a float32 number nor a file"),
        (("-i", "picture=1"), "the network has no input 'picture'"),
        (("-i", "image=nan"), "holds NaN"),
        (("-i", "image=1", "--mask", "FILES/small.png"), "has shape [16, 32]; expected [32, 32]"),
        (("-i", "image=1", "--device", "tpu"), "there is no device 'tpu'"),
        (("-i", "image=1", "--device", "cuda:0"), "needs ONNX Runtime with CUDA"),
        (("-i", "image=1", "--threads", "0"), "threads is a count"),
        (("-i", "image=1", "--load", "FILES/edited.png"), "not a cache file"),
        (("-i", "image=1", "--load", "FILES/absent"), "there is no cache file"),
        (("-i", "image=1", "--out", "FILES/mask.png"), "cannot write to"),
        (("-i", "image=1", "--report", "FILES/report.xyz"), "names no picture type"),
        (("-i", "image=1", "--report", "FILES/no/report.png"), "cannot write"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_edit_errors(
    cli: Sige, three: Path, files: Path, recorded: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    given = [word.replace("FILES", str(files)) for word in words]
    done = cli("edit", three, "--load", recorded, "--out", tmp_path, *given)
    if said == "needs ONNX Runtime with CUDA" and done.code == 0:
        pytest.skip("this machine has CUDA")
    assert said in done.sentence()


def test_record_errors(cli: Sige, three: Path, files: Path, tmp_path: Path) -> None:
    words = ["record", three, "-i", f"image={files / 'original.png'}"]
    assert "input 'gain' is missing" in cli(*words, "--save", tmp_path / "s").sentence()
    assert "cannot write caches" in cli(*words, "-i", "gain=1", "--save", tmp_path / "no/s").sentence()
    np.save(tmp_path / "wrong.npy", np.zeros((2, 2)))
    done = cli(
        "record", three, "-i", f"image={tmp_path / 'wrong.npy'}", "-i", "gain=1", "--save", tmp_path / "s"
    )
    assert "dtype float64; expected float32" in done.sentence()


def test_compare_with_a_recorded_state(cli: Sige, three: Path, files: Path, recorded: Path) -> None:
    edited = f"image={files / 'edited.png'}"
    done = cli("compare", three, "--load", recorded, "-i", edited, "--json")
    assert done.code == 0, done.err
    (output,) = done.json()["outputs"]
    assert output["output"] == "picture"
    assert output["psnr_inside"] < output["psnr_outside"]
    assert done.json()["report"]["path"] == "sparse"
    original = f"image={files / 'original.png'}"
    again = cli(
        "compare", three, "--original", original, "--original", "gain=1", "-i", edited, "--json"
    ).json()
    assert again["outputs"][0]["max_error"] == pytest.approx(output["max_error"], rel=1e-3)


def test_compare_of_random_edits(cli: Sige, three: Path) -> None:
    done = cli("compare", three, "--area", 10, "--shape", "blobs")
    assert done.code == 0, done.err
    assert "PSNR inside" in done.out and "sparse edit" in done.out
    whole = cli("compare", three, "--area", 100, "--json").json()
    assert whole["report"]["path"] == "sparse"
    assert whole["outputs"][0]["max_error"] < 1e-5
    assert whole["outputs"][0]["psnr_outside"] is None
