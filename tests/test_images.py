"""Arrays and pictures as inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sige_deploy import images
from sige_deploy.errors import InputError
from sige_deploy.images import read_input, read_mask, read_value, to_picture, write_outputs
from sige_deploy.manifest import InputSpec


def spec(*shape: int, dtype: Any = "float32") -> InputSpec:
    axes: Any = ["N", "C", "Y", "X"][4 - len(shape) :]
    return InputSpec(name="image", shape=list(shape), dtype=dtype, role="spatial", level="l", axes=axes)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    values = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
    Image.fromarray(values).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_a_picture_in_a_range(picture: Path) -> None:
    pixels = np.asarray(Image.open(picture)).transpose(2, 0, 1).astype(np.float64)
    for value_range in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        low, high = value_range
        array = read_input(spec(1, 3, 4, 6), picture, value_range)
        assert array.shape == (1, 3, 4, 6) and array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_allclose(array[0], pixels / 255 * (high - low) + low, atol=1e-4)
        shown = to_picture(array, value_range)
        assert shown is not None
        assert np.array_equal(shown, np.asarray(Image.open(picture)))


def test_a_picture_for_other_shapes(picture: Path) -> None:
    assert read_input(spec(3, 4, 6), picture).shape == (3, 4, 6)
    assert read_input(spec(1, 1, 4, 6), picture).shape == (1, 1, 4, 6)
    assert (read_input(spec(1, 4, 4, 6), picture)[0, 3] == 1).all()
    batch = read_input(spec(2, 3, 4, 6, dtype="uint8"), picture)
    assert batch.dtype == np.uint8 and np.array_equal(batch[0], batch[1])
    assert batch.max() == np.asarray(Image.open(picture)).max()


def test_a_label_map_becomes_one_hot(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [11, 5, 5]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "l.png")
    array = read_input(spec(1, 12, 2, 3), tmp_path / "l.png")
    assert np.array_equal(array.argmax(axis=1)[0], labels) and (array.sum(axis=1) == 1).all()
    with pytest.raises(InputError, match="holds label 11; the input has 8 channels"):
        read_input(spec(1, 8, 2, 3), tmp_path / "l.png")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="grey or paletted label map"):
        read_input(spec(1, 12, 2, 3), tmp_path / "rgb.png")


def test_numbers_fill_an_input() -> None:
    time = InputSpec(name="time", shape=[], dtype="int64", role="free")
    assert read_value(time, "500") == np.array(500) and read_value(time, "500").dtype == np.int64
    assert read_value(spec(1, 2, 1, 1), "-0.5").tolist() == [[[[-0.5]], [[-0.5]]]]
    flag = InputSpec(name="flag", shape=[1], dtype="bool", role="free")
    assert read_value(flag, "true").tolist() == [True] and read_value(flag, "0").tolist() == [False]
    for wrong, of in (("1.5", time), ("yes", flag), ("3000000000000000000000", time)):
        with pytest.raises(InputError, match="neither a"):
            read_value(of, wrong)


def test_array_files(tmp_path: Path) -> None:
    array = np.ones((1, 3, 4, 6), np.float32)
    np.savez(tmp_path / "one.npz", whatever=array)
    np.savez(tmp_path / "two.npz", a=array, b=array)
    assert read_input(spec(1, 3, 4, 6), tmp_path / "one.npz").shape == array.shape
    with pytest.raises(InputError, match="holds no array 'image'; it holds a, b"):
        read_input(spec(1, 3, 4, 6), tmp_path / "two.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01")
    for name in ("objects.npy", "damaged.npy"):
        with pytest.raises(InputError, match="is not an array file"):
            read_input(spec(1, 3, 4, 6), tmp_path / name)


def test_pictures_that_do_not_fit(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6x4 pixels; input 'image' takes 8x8"):
        read_input(spec(1, 3, 8, 8), picture)
    with pytest.raises(InputError, match=r"is no image; give it as a \.npy file"):
        read_input(InputSpec(name="x", shape=[5], dtype="float32", role="free"), picture)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="is not a readable picture"):
        read_input(spec(1, 3, 4, 6), tmp_path / "text.png")


def test_masks(tmp_path: Path) -> None:
    mask = np.array([[0, 127, 128], [255, 0, 0]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", mask >= 128)
    for name in ("m.png", "m.npy"):
        assert np.array_equal(read_mask(tmp_path / name, (2, 3)), mask >= 128)
    with pytest.raises(InputError, match=r"has shape \[2, 3\]; expected \[3, 2\]"):
        read_mask(tmp_path / "m.png", (3, 2))


def test_outputs_are_written(tmp_path: Path) -> None:
    outputs = {
        "a/b": np.zeros((2, 3, 4, 6), np.float32),
        "grey": np.ones((1, 1, 4, 6), np.float16),
        "tokens": np.zeros((1, 7), np.float32),
    }
    written = write_outputs(tmp_path / "out", outputs)
    assert [p.name for p in written] == [
        "a_b.npy", "a_b-0.png", "a_b-1.png", "grey.npy", "grey.png", "tokens.npy"
    ]  # fmt: skip
    assert np.asarray(Image.open(tmp_path / "out/grey.png")).min() == 255
    assert np.array_equal(np.load(tmp_path / "out/a_b.npy"), outputs["a/b"])


def test_a_picture_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    images.save_picture(tmp_path / "a.png", picture)
    before = (tmp_path / "a.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write .* \(No space left on device\); choose a place"):
        images.save_picture(tmp_path / "a.png", picture + 1)
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    for place, sentence in (("a.xyz", "end it in .png"), ("none/a.png", "no place for a picture")):
        with pytest.raises(InputError, match=sentence):
            images.check_picture_path(tmp_path / place)
