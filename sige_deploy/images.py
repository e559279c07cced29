"""Arrays from and to files (.npy, .npz, pictures), shaped as a bundle's inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy import files
from sige_deploy.errors import InputError
from sige_deploy.manifest import InputSpec

ARRAYS = (".npy", ".npz")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode
Range = tuple[float, float]
PathLike = str | os.PathLike[str]


def read_value(spec: InputSpec, text: str, value_range: Range = (-1.0, 1.0)) -> np.ndarray:
    """What a user writes for an input: a file's path, or a number that fills the input's shape.

    Raises InputError as `read_input` does, and for text that is neither.
    """
    if Path(text).suffix.lower() in (*ARRAYS, *PICTURES) or os.path.exists(text):
        return read_input(spec, text, value_range)
    try:
        return _filled(spec, text)
    except (ValueError, OverflowError):
        known = ", ".join((*ARRAYS, *PICTURES))
        raise InputError(
            f"'{text}' for input '{spec.name}' is neither a {spec.dtype} number nor a file; "
            f"give a number or a file ({known})."
        ) from None


def read_input(spec: InputSpec, path: PathLike, value_range: Range = (-1.0, 1.0)) -> np.ndarray:
    """The array of one input from a file.

    .npy: the array as it is. .npz: its array of the input's name, or its only one. A picture, for inputs
    [B, C, H, W] or [C, H, W] of exactly its size: with C of 1, 3 or 4 its values 0..255 become
    `value_range` (integers stay 0..255); with more channels it is a label map, grey or paletted, whose
    values become one-hot channels. All images of a batch are equal then.
    Raises InputError for files that cannot be read or do not fit; a .npy's shape and dtype are left to the
    session's check.
    """
    suffix = Path(path).suffix.lower()
    if suffix in ARRAYS:
        return _load_array(path, spec.name)
    if suffix not in PICTURES:
        raise InputError(
            f"'{path}' for input '{spec.name}' has no known type; use {', '.join((*ARRAYS, *PICTURES))}."
        )
    if spec.axes is None and len(spec.shape) not in (3, 4):
        raise InputError(f"input '{spec.name}' of shape {spec.shape} is no image; give it as a .npy file.")
    channels, height, width = spec.shape[-3:]
    values = _load_picture(path, spec.name, channels, (height, width))
    if channels not in MODES:
        planes = _one_hot(path, values[0], channels).astype(spec.dtype)
    elif np.dtype(spec.dtype).kind in "iu":
        planes = values.astype(spec.dtype)
    else:
        low, high = value_range
        planes = (values * ((high - low) / 255) + low).astype(spec.dtype)
    return np.ascontiguousarray(np.broadcast_to(planes, spec.shape))


def read_mask(path: PathLike, size: tuple[int, int]) -> np.ndarray:
    """Edited pixels, bool [H, W]: a picture's pixels of at least half brightness, or a .npy's non-zero ones.

    Raises InputError when the file cannot be read or has another size (height, width).
    """
    if Path(path).suffix.lower() in ARRAYS:
        mask = _load_array(path, "mask") != 0
    else:
        mask = np.asarray(_open_picture(path, "the mask").convert("L")) >= 128
    if mask.shape != size:
        raise InputError(
            f"mask '{path}' has shape {list(mask.shape)}; "
            f"expected {list(size)}, the size of the spatial input."
        )
    return mask


def read_picture(path: PathLike) -> np.ndarray:
    """uint8 [H, W, 3] of a picture's file; raises InputError when it cannot be read."""
    return np.array(_open_picture(path, "the picture").convert("RGB"))


def to_picture(array: np.ndarray, value_range: Range = (-1.0, 1.0)) -> np.ndarray | None:
    """uint8 [H, W, 3] of the first image of [B, C, H, W] or [C, H, W], C 1, 3 or 4 (alpha is dropped); values
    of `value_range` become 0..255, uint8 stays. None for arrays of other shapes: they are no pictures."""
    if array.ndim == 4:
        array = array[0]
    if array.ndim != 3 or array.shape[0] not in MODES:
        return None
    planes = array[:3] if array.shape[0] > 1 else np.repeat(array, 3, axis=0)
    if planes.dtype != np.uint8:
        low, high = value_range
        scaled = (planes.astype(np.float32) - low) * (255 / (high - low))
        planes = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def write_outputs(
    folder: PathLike, outputs: dict[str, np.ndarray], value_range: Range = (-1.0, 1.0)
) -> list[Path]:
    """Write every output as <name>.npy, and as <name>.png (<name>-0.png, ... for a batch) those that are
    pictures. Returns the files written; raises InputError when the folder cannot be written to."""
    root = Path(folder)
    written: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            stem = name.replace("/", "_")
            written.append(root / f"{stem}.npy")
            np.save(written[-1], array)
            for suffix, picture in _pictures(array, value_range):
                written.append(root / f"{stem}{suffix}.png")
                save_picture(written[-1], picture)
    except OSError as error:
        raise InputError(
            f"cannot write to '{folder}' ({error.strerror}); choose a folder that you can write to."
        ) from error
    return written


def check_picture_path(path: PathLike) -> None:
    """Raises InputError where no picture can be written: to know it before it is made."""
    if Path(path).suffix.lower() not in PICTURES:
        raise InputError(f"'{path}' names no picture type; end it in {', '.join(PICTURES)}.")
    if not Path(path).parent.is_dir() or Path(path).is_dir():
        raise InputError(f"'{path}' is no place for a picture; name a file in an existing folder.")


def save_picture(path: PathLike, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as a picture whose type the suffix gives; raises InputError when it cannot, and
    then what was there is as it was."""
    from PIL import Image

    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"'{path}' names no picture type; end it in {', '.join(PICTURES)}.")
    try:
        with files.replacing(path) as file:
            Image.fromarray(picture).save(file, kind)
    except OSError as error:
        raise InputError(
            f"cannot write '{path}' ({error.strerror}); choose a place that you can write to."
        ) from error


def _pictures(array: np.ndarray, value_range: Range) -> Iterator[tuple[str, np.ndarray]]:
    images = array if array.ndim == 4 else array[None]
    for index, image in enumerate(images):
        picture = to_picture(image, value_range)
        if picture is not None:
            yield ("" if len(images) == 1 else f"-{index}"), picture


def _load_array(path: PathLike, name: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"cannot read '{path}' ({error.strerror or error}); give an existing file."
        ) from error
    except Exception as error:  # damaged zip files and headers raise many types
        raise InputError(
            f"'{path}' is not an array file ({_short(error)}); save it with numpy.save."
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if name in loaded.files or len(loaded.files) == 1:
            return loaded[name if name in loaded.files else loaded.files[0]]
        held = ", ".join(loaded.files) or "nothing"
        raise InputError(f"'{path}' holds no array '{name}'; it holds {held}.")


def _open_picture(path: PathLike, what: str) -> Any:
    from PIL import Image

    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'; give an existing picture for {what}.") from None
    except Exception as error:  # Pillow raises many types for damaged pictures
        raise InputError(f"'{path}' is not a readable picture ({_short(error)}).") from error
    return picture


def _load_picture(path: PathLike, name: str, channels: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [C, H, W], or [1, H, W] for a label map."""
    picture = _open_picture(path, f"input '{name}'")
    if picture.size != (size[1], size[0]):
        raise InputError(
            f"'{path}' has {picture.size[0]}x{picture.size[1]} pixels; "
            f"input '{name}' takes {size[1]}x{size[0]} (width x height), so resize it first."
        )
    if channels in MODES:
        values = np.asarray(picture.convert(MODES[channels]))
        return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if picture.mode not in ("L", "P"):
        raise InputError(
            f"'{path}' is a {picture.mode} picture; input '{name}' has {channels} channels, "
            "so give a grey or paletted label map, or a .npy file."
        )
    return np.asarray(picture)[None]


def _one_hot(path: PathLike, labels: np.ndarray, channels: int) -> np.ndarray:
    if labels.max(initial=0) >= channels:
        raise InputError(
            f"'{path}' holds label {labels.max()}; the input has {channels} channels, 0 to {channels - 1}."
        )
    return labels[None] == np.arange(channels)[:, None, None]


def _filled(spec: InputSpec, text: str) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        value: Any = {"true": True, "false": False, "1": True, "0": False}.get(text.lower())
        if value is None:
            raise ValueError(text)
    else:
        value = int(text) if dtype.kind in "iu" else float(text)
    return np.full(spec.shape, value, dtype)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
