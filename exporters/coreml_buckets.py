"""Which row counts a bundle gets Core ML models for.

A model has static shapes and holds all weights, so there are few: one for each share of the network's work
below, as large at every level as compact edits of that share need it; ragged ones may take the next. Rows are
the width of a texture, so edits with more rows than that at some level have no model; they run dense.
"""

from __future__ import annotations

from sige_deploy.buckets import compact
from sige_deploy.coreml.checker import PIXELS
from sige_deploy.errors import ExportError
from sige_deploy.manifest import Manifest

#: Largest share of the network's work of an edit, for each model.
SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
WORTHWHILE = 1.25  # times the rows of the model before at some level; less takes its place


def buckets(manifest: Manifest) -> list[dict[str, int]]:
    """Rows of each level by id, for each model, the smallest first. Raises ExportError where even the
    smallest edit has too many rows for a texture."""
    fitting = [(share, rows) for share, rows in compact(manifest) if max(rows.values()) <= PIXELS]
    if not fitting:
        raise ExportError(
            f"Core ML cannot run the edits of this bundle: even the smallest has more than {PIXELS} rows at "
            "some level, and no texture is wider; export with granularity 1 and less dilation."
        )
    made: list[dict[str, int]] = []
    for limit in SHARES:
        within = [rows for share, rows in fitting if share <= limit or limit == SHARES[-1]]
        if not within:
            continue
        rows = {level.id: max(rows[level.id] for rows in within) for level in manifest.levels}
        if made and all(count < WORTHWHILE * made[-1][level] for level, count in rows.items()):
            made[-1] = rows
        else:
            made.append(rows)
    return made
