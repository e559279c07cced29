"""Edits that recompute only what they changed: export, open, record, edit.

Importing this package loads neither torch nor onnx nor onnxruntime; the first call that needs one imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sige_deploy import masks
    from sige_deploy.bundle import Bundle, open_bundle
    from sige_deploy.config import SparseConfig
    from sige_deploy.errors import (
        BundleError,
        CacheError,
        Cancelled,
        ExportError,
        InputError,
        RuntimeFailure,
        SigeError,
        StateError,
    )
    from sige_deploy.exporters.diffusers import export_diffusers
    from sige_deploy.exporters.export import export
    from sige_deploy.pipeline_folder import Pipeline, read_pipeline
    from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline
    from sige_deploy.pipelines.recording import Recording
    from sige_deploy.runs.tiers import Budget
    from sige_deploy.session import Report, Session, open

__version__ = "0.1.0"

__all__ = [
    "export", "export_diffusers", "open", "open_bundle", "read_pipeline", "Bundle", "Pipeline", "Session",
    "SparseConfig", "Report", "masks", "open_pipeline", "DiffusionPipeline", "Recording", "Budget",
    "SigeError", "BundleError", "InputError", "StateError", "ExportError", "RuntimeFailure", "CacheError",
    "Cancelled", "__version__",
]  # fmt: skip

_HOME = {
    "export": "sige_deploy.exporters.export",
    "export_diffusers": "sige_deploy.exporters.diffusers",
    "read_pipeline": "sige_deploy.pipeline_folder",
    "Pipeline": "sige_deploy.pipeline_folder",
    "open_pipeline": "sige_deploy.pipelines.pipeline",
    "DiffusionPipeline": "sige_deploy.pipelines.pipeline",
    "Recording": "sige_deploy.pipelines.recording",
    "Budget": "sige_deploy.runs.tiers",
    "open": "sige_deploy.session",
    "Session": "sige_deploy.session",
    "Report": "sige_deploy.session",
    "Bundle": "sige_deploy.bundle",
    "open_bundle": "sige_deploy.bundle",
    "SparseConfig": "sige_deploy.config",
    "SigeError": "sige_deploy.errors",
    "BundleError": "sige_deploy.errors",
    "InputError": "sige_deploy.errors",
    "StateError": "sige_deploy.errors",
    "ExportError": "sige_deploy.errors",
    "RuntimeFailure": "sige_deploy.errors",
    "CacheError": "sige_deploy.errors",
    "Cancelled": "sige_deploy.errors",
}


def __getattr__(name: str) -> object:
    if name == "masks":
        return importlib.import_module("sige_deploy.masks")
    if name not in _HOME:
        raise AttributeError(f"module 'sige_deploy' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
