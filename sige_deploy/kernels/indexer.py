"""From the edited pixels to the index feeds of an edit graph, on the host or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.geometry import Geometry, Level
from sige_deploy.kernels.library import Kernels
from sige_deploy.masks import MaskPolicy

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory


class NativeIndexer:
    """`Indexer` in native code: the same feeds for the same padded counts, but in buffers at fixed addresses,
    and a halo always as long as its source level. One call per step; on a GPU only `block` comes back.

    inputs: (height, width) of each spatial input.
    only: names of the feeds wanted, as in `Indexer.build`; None makes all.
    words: int32 words of room for status beside the counts, see `status`.

    Raises BundleError when geometries and levels do not fit together.
    """

    block: Buffer  #: int32 [levels + words]: the counts by level, then the status words
    status: Buffer  #: int32 [words], the block's end; nothing here writes it (`Comparison` does)

    def __init__(
        self,
        kernels: Kernels,
        memory: Memory,
        levels: Sequence[Level],
        geometries: Sequence[Geometry],
        policy: MaskPolicy,
        inputs: Sequence[tuple[int, int]],
        only: Set[str] | None = None,
        words: int = 0,
    ) -> None:
        raise NotImplementedError

    def begin(self, masks: Sequence[Buffer]) -> None:
        """Make the levels' masks and counts; stream-ordered.

        masks: uint8 [h, w], nonzero where a spatial input was edited (before dilation), in the order and of
        the sizes of `inputs`.
        """
        raise NotImplementedError

    def counts_and_status(self) -> tuple[dict[str, int], np.ndarray]:
        """Active pixels of each level, and the status words, int32 [words]: one download of `block`."""
        raise NotImplementedError

    def finish(self, rows: Mapping[str, int]) -> dict[str, Buffer]:
        """Make the feeds of the edit that `begin` was last called for; stream-ordered. Once per `begin`.

        rows: padded count P of each level, at least its count and at most bucket(pixels). The feeds are views
        of buffers that the next `finish` overwrites: "active.<level>" int32 [P]; "halo.<geometry>" int32
        [source pixels], zeros after its last entry; "table.<geometry>" int32 [R, K], whose halo entries start
        at the source level's P; "weights.<geometry>" float32 [R, K]. A level without active pixels and P > 0
        counts pixel 0 as active. Raises InputError where a P does not fit.
        """
        raise NotImplementedError
