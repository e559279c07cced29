"""Networks drawn at random against the reference and dense: what no hand-picked architecture combines."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checking import assert_same, blob_and_dust, dense, edited, export
from random_networks import INPUT, RandomNetwork
from reference import Reference
from zoo import Entry

CONFIGS = [{}, {"granularity": 2}, {"granularity": 4, "dilate": 3}, {"dilate": 0, "level_dilate": 2}]


@pytest.mark.parametrize("seed", range(8))
def test_a_random_network(seed: int, tmp_path: Path) -> None:
    batch = 1 + seed % 2
    inputs = {"image": (batch, *INPUT), "t": (batch, 6)}
    entry = Entry(f"random{seed}", partial(RandomNetwork, seed), inputs, config=CONFIGS[seed % len(CONFIGS)])
    reference = Reference(entry.module(), entry.example_inputs(0), entry.spatial)
    case = export(entry, tmp_path / "recorded", "recorded")
    assert_same(case.outputs, dense(entry, case.recorded), 1e-4)
    mask = blob_and_dust(entry, seed)
    assert_same(case.edit(case.recorded, mask), case.outputs, 2e-5)
    inputs_1, inputs_2 = edited(entry, case.recorded, 2), edited(entry, case.recorded, 3)
    first = inputs_1, case.level_masks(mask)
    assert_same(case.edit(inputs_1, mask), reference.run(case.recorded, first), entry.tolerance)
    case.session.commit()
    mask = blob_and_dust(entry, seed + 100)
    want = reference.run(case.recorded, first, (inputs_2, case.level_masks(mask)))
    assert_same(case.edit(inputs_2, mask), want, entry.tolerance)
    case.session.close()

    fresh = export(entry, tmp_path / "fresh", "fresh")
    inputs_1 = edited(entry, fresh.recorded, 4)
    assert_same(fresh.edit(inputs_1, np.ones(INPUT[1:], bool)), dense(entry, inputs_1), 2e-4)
    fresh.session.close()
