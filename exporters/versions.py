"""Versions of installed packages, for the record of what produced a bundle."""

from __future__ import annotations

import importlib.metadata


def version(package: str) -> str:
    """The installed version, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
