"""The protobuf messages of Core ML's model format, which coremltools brings."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from sige_deploy.errors import RuntimeFailure


def messages(name: str) -> Any:
    """A module of coremltools.proto, such as "Model" or "NeuralNetwork". Raises RuntimeFailure without
    coremltools."""
    quiet()
    try:
        return importlib.import_module(f"coremltools.proto.{name}_pb2")
    except ImportError as error:
        raise RuntimeFailure(
            f"Core ML models need coremltools, which cannot be imported ({error}); run pip install "
            "'sige-deploy[coreml]'."
        ) from error


def quiet() -> None:
    """Keep coremltools from warning, when it is imported, of everything of Apple's that Linux lacks."""
    logger = logging.getLogger("coremltools")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
