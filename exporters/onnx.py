"""Loading a given .onnx file as the network to export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir


def load(path: str | os.PathLike[str]) -> ir.Model:
    """The model of an ONNX file of any framework. Raises ExportError when it cannot be read."""
    import onnx_ir

    file = Path(path)
    if not file.is_file():
        raise ExportError(f"There is no model file {file}; give the path of an .onnx file or a torch module.")
    try:
        return onnx_ir.load(file)
    except Exception as error:
        raise ExportError(
            f"{file} is not a readable ONNX model; give the path of a valid .onnx file."
        ) from error
