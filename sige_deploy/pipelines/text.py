"""From prompts to what a UNet takes of them: tokenizers, text encoders and the prompt network of a pipeline
folder, on ONNX Runtime, once per prompt."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.devices.cuda import device_index
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.pipeline_folder import Pipeline
from sige_deploy.runtimes.onnxruntime_session import create, translated

Arrays = dict[str, np.ndarray]
KEPT = 8  # prompts whose results stay


class Prompts:
    """A `Condition` of a pipeline folder. threads: of ONNX Runtime, None for all cores. device: "cpu", or
    "cuda:0", ... where ONNX Runtime's CUDA provider is loaded."""

    def __init__(self, folder: Pipeline, threads: int | None = None, device: str = "cpu") -> None:
        self._folder, self._threads = folder, threads
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu":
            options = {"device_id": str(device_index(device)), "use_tf32": "0"}  # float32 means float32
            self._providers.insert(0, ("CUDAExecutionProvider", options))
        self._sessions: dict[Path, Any] = {}
        self._tokenizers: dict[str, Any] = {}
        self._inputs = lru_cache(KEPT)(self._computed)
        self._halves = lru_cache(KEPT)(self._encoded)

    def __call__(self, prompt: str, negative: str) -> Arrays:
        """The UNet's inputs for a prompt and a negative one, which networks without guidance ignore."""
        return self._inputs(prompt, negative)

    def _computed(self, prompt: str, negative: str) -> Arrays:
        manifest = self._folder.manifest
        dtype = manifest.precision
        halves = [self._halves(prompt)]
        if manifest.batch > 1:
            other = self._halves(negative)
            if manifest.zero_empty_prompt and not negative:
                other = {name: np.zeros_like(value) for name, value in other.items()}
            halves = [other, *halves * (manifest.batch - 1)]
        feeds = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        feeds = {name: value.astype(dtype) for name, value in feeds.items()}
        if manifest.family == "stable-diffusion-xl":
            sizes = [manifest.height, manifest.width, 0, 0, manifest.height, manifest.width]
            feeds["time_ids"] = np.array([sizes] * manifest.batch, np.float32)
        return self._run(self._folder.prompt, feeds)

    def _encoded(self, prompt: str) -> Arrays:
        """Of all encoders: hidden [1, length, all widths], for SDXL pooled [1, width]."""
        made = []
        for spec in self._folder.manifest.text_encoders:
            tokens = self._tokens(spec.tokenizer, prompt, spec.length)
            made.append(self._run(self._folder.path(spec.model), {"tokens": tokens}))
        result = {"hidden": np.concatenate([outputs["hidden"] for outputs in made], axis=-1)}
        if self._folder.manifest.family == "stable-diffusion-xl":
            result["pooled"] = next(outputs["pooled"] for outputs in made[::-1] if "pooled" in outputs)
        return result

    def _tokens(self, folder: str, prompt: str, length: int) -> np.ndarray:
        """int64 [1, length]."""
        if folder not in self._tokenizers:
            try:
                from transformers import CLIPTokenizer
            except ImportError as error:
                raise RuntimeFailure(
                    f"prompts need the package {error.name}; run pip install 'sige-deploy[diffusers]'."
                ) from error
            path = self._folder.root / folder
            self._tokenizers[folder] = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        tokenizer = self._tokenizers[folder]
        ids = tokenizer(prompt, padding="max_length", max_length=length, verbose=False)["input_ids"]
        if len(ids) > length:
            kept = tokenizer.decode(ids[: length - 1], skip_special_tokens=True)
            raise InputError(
                f"the prompt has {len(ids) - 2} tokens and this pipeline reads {length - 2}, up to "
                f"'...{kept[-30:]}'; shorten it."
            )
        return np.array([ids], np.int64)

    def _run(self, path: Path, feeds: Arrays) -> Arrays:
        session = self._sessions.get(path)
        if session is None:
            session = self._sessions[path] = create(path, self._providers, self._threads)
        with translated(f"running '{path}'"):
            names = [node.name for node in session.get_outputs()]
            wanted = {node.name for node in session.get_inputs()}
            given = {name: value for name, value in feeds.items() if name in wanted}
            return dict(zip(names, session.run(names, given)))
