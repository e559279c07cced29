"""The native kernels' C API (plugins/kernels) in Python: what an edit does beside its graph.

Buffers come from a `Memory`, work goes to its stream, and each step that an edit repeats is one prepared call
through ctypes.
"""

from sige_deploy.kernels.compare import Comparison, Layout
from sige_deploy.kernels.copies import Copies
from sige_deploy.kernels.indexer import NativeIndexer
from sige_deploy.kernels.library import Kernels
from sige_deploy.kernels.moves import Offsets, RowMoves

__all__ = ["Comparison", "Copies", "Kernels", "Layout", "NativeIndexer", "Offsets", "RowMoves"]
