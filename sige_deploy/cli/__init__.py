"""The command line `sige-deploy`: every verb reads its arguments and makes one public Python call.

Importing this package, and asking for help, loads neither torch nor onnx nor onnxruntime nor matplotlib.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `sige-deploy` command; exits with 0, 1 after an error, 2 after wrong usage."""
    from sige_deploy.cli.app import app

    app(prog_name="sige-deploy")
