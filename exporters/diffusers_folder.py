"""Reading a diffusers pipeline folder: known classes, safetensors, nothing downloaded, no code run."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
#: Of each part of the folder, the classes that this exporter knows.
KNOWN = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": TEXT_ENCODERS,
    "text_encoder_2": TEXT_ENCODERS,
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
OPTIONAL = ("text_encoder_2", "tokenizer_2")
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SCHEDULER_FILES = ("scheduler_config.json",)


@dataclass(frozen=True)
class Folder:
    """A pipeline folder whose index is checked. `parts` maps its parts to their class names."""

    root: Path
    parts: dict[str, str]
    index: dict[str, Any]

    @property
    def family(self) -> str:
        return "stable-diffusion-xl" if "text_encoder_2" in self.parts else "stable-diffusion"

    def config(self, part: str) -> dict[str, Any]:
        """config.json of a part, as written."""
        return read_json(self.root / part / "config.json")

    def load(self, part: str, dtype: torch.dtype) -> Any:
        """A network of the folder in eval mode. Raises ExportError."""
        return load_network(self.root / part, self.parts[part], dtype)


def open_folder(path: Path) -> Folder:
    """Check the index of a pipeline folder. Raises ExportError."""
    if not (path / INDEX).is_file():
        raise ExportError(
            f"'{path}' has no {INDEX}; give the folder of a diffusers pipeline, as save_pretrained writes it."
        )
    index = read_json(path / INDEX)
    parts: dict[str, str] = {}
    for name, classes in KNOWN.items():
        given = index.get(name)
        kind = given[1] if isinstance(given, list) and len(given) == 2 else None
        if kind is None and name in OPTIONAL:
            continue
        if kind not in classes:
            raise ExportError(
                f"The pipeline '{path}' has {kind or 'no class'} as its {name}; this exporter knows "
                f"{' and '.join(classes)} there (Stable Diffusion 1.x, 2.x and XL)."
            )
        parts[name] = kind
    if ("text_encoder_2" in parts) != ("tokenizer_2" in parts):
        raise ExportError(f"The pipeline '{path}' has only one of text_encoder_2 and tokenizer_2.")
    return Folder(path, parts, index)


def load_network(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """A network of a known class, from config.json and safetensors weights, in eval mode.

    Raises ExportError.
    """
    _require_packages()
    weights = sorted(p.name for p in folder.glob("*.safetensors")) if folder.is_dir() else []
    if not weights:
        raise ExportError(
            f"'{folder}' has no .safetensors weights (pickled ones are never read); convert them with "
            "save_pretrained(..., safe_serialization=True)."
        )
    # "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors": a variant without a plain sibling
    variants = {name.split(".")[1].split("-")[0] for name in weights if name.count(".") == 2}
    plain = any(name.count(".") == 1 for name in weights)
    settings: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    if not plain and len(variants) == 1:
        settings["variant"] = variants.pop()
    try:
        with quiet():
            return _class(kind).from_pretrained(folder, torch_dtype=dtype, **settings).eval()
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ExportError(f"cannot load the {kind} in '{folder}' ({line}).") from error


def _class(kind: str) -> Any:
    """The class of that name; `kind` is one of ours, never a name out of a file."""
    if kind in TEXT_ENCODERS:
        import transformers

        return getattr(transformers, kind)
    import diffusers

    return getattr(diffusers, kind)


def _require_packages() -> None:
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ExportError(
            f"exporting a pipeline needs {error.name}; run pip install 'sige-deploy[diffusers]'."
        ) from error
    del diffusers, transformers


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ExportError."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"cannot read '{path}' ({error}); give a whole diffusers folder.") from error
    if not isinstance(found, dict):
        raise ExportError(f"'{path}' is not a JSON object; give a whole diffusers folder.")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Loading talks through loggers, warnings and progress bars; none of it is for our users."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            transformers_logging.disable_progress_bar()
            diffusers_logging.disable_progress_bar()
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
            diffusers_logging.enable_progress_bar()
