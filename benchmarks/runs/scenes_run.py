"""What the benchmarks of runs share: their arguments, and decibels as JSON has them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """--out, --threads and --device, with a module's docstring as the help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser


def decibels(db: float) -> float | str:
    """To two digits; infinity, which JSON has no number for, by its name."""
    return round(db, 2) if np.isfinite(db) else "infinite"
