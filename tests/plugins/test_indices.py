"""The native indexer against Indexer: the same bits in every feed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy import geometry as geo
from sige_deploy.devices.memory import Buffer, HostMemory, host_array
from sige_deploy.errors import BundleError, InputError
from sige_deploy.geometry import Geometry, Level
from sige_deploy.kernels import Kernels, NativeIndexer
from sige_deploy.masks import MaskPolicy

from . import indices_cases as cases
from .indices_cases import Network

FAST = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def native(kernels: Kernels, network: Network, only: set[str] | None = None, words: int = 0) -> NativeIndexer:
    return NativeIndexer(
        kernels, HostMemory(), network.levels, network.geometries, network.policy, network.inputs, only, words
    )


def upload(masks: list[np.ndarray]) -> list[Buffer]:
    return [HostMemory().upload(mask.view(np.uint8)) for mask in masks]


def assert_equal(actual: dict[str, Buffer], expected: cases.Feeds) -> None:
    assert set(actual) == set(expected)
    for name, feed in expected.items():
        array = host_array(actual[name])
        assert array.dtype == feed.dtype
        np.testing.assert_array_equal(array, feed, err_msg=name)


@FAST
@given(seed=st.integers(0, 2**32 - 1))
def test_feeds_are_those_of_the_indexer(edit_kernels: Kernels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = cases.network(rng)
    reference, indexer = network.indexer(), native(edit_kernels, network)
    for _ in range(4):  # what one edit leaves behind never shows in the next one's feeds
        masks = cases.masks(rng, network.inputs)
        indices = reference.build(masks)
        indexer.begin(upload(masks))
        indexer.list_active()
        counts, _ = indexer.counts_and_status()
        assert counts == indices.counts
        for _ in range(2):
            rows = cases.padded_counts(rng, network, counts)
            assert_equal(indexer.finish(rows), cases.expected(network, indices, rows))


@pytest.mark.parametrize("sizes", [((256, 512), (4, 8)), ((65, 131), (64, 33)), ((96, 70), (192, 280))])
def test_large_levels(edit_kernels: Kernels, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """More pixels than one block of any kernel has, in whole and broken ratios."""
    fine, coarse = (Level(name, *size) for name, size in zip(("fine", "coarse"), sizes))
    y, x = (geo.window(n, 3, pad=(1, 1)) for n in fine.shape)
    network = Network([fine, coarse], [Geometry("g", "fine", "fine", y, x)], MaskPolicy(), [fine.shape])
    reference, indexer = network.indexer(), native(edit_kernels, network)
    for share in (0.5, 0.001, 0.02):
        masks = [np.random.default_rng(0).random(fine.shape) < share]
        indices = reference.build(masks)
        indexer.begin(upload(masks))
        indexer.list_active()
        rows = {
            level: feed.size for level, feed in ((v, indices.feeds[f"active.{v}"]) for v in indices.counts)
        }
        assert_equal(indexer.finish(rows), cases.expected(network, indices, rows))


def test_only_the_wanted_feeds_at_fixed_addresses(edit_kernels: Kernels) -> None:
    rng = np.random.default_rng(1)
    network = cases.network(rng)
    g = network.geometries[0].id
    only = {f"active.{network.levels[0].id}", f"table.{g}"}
    reference, indexer = network.indexer(), native(edit_kernels, network, only)
    addresses = set()
    for _ in range(5):
        masks = cases.masks(rng, network.inputs)
        indices = reference.build(masks)
        indexer.begin(upload(masks))
        indexer.list_active()
        feeds = indexer.finish(
            {v: f.size for v, f in ((v, indices.feeds[f"active.{v}"]) for v in indices.counts)}
        )
        rows = {
            level: feed.size for level, feed in ((v, indices.feeds[f"active.{v}"]) for v in indices.counts)
        }
        wanted = cases.expected(network, indices, rows)
        assert_equal(feeds, {name: wanted[name] for name in only})
        addresses.add(tuple(feeds[name].pointer for name in sorted(only)))
    assert len(addresses) == 1


def test_status_words_lie_behind_the_counts(edit_kernels: Kernels) -> None:
    network = Network([Level("a", 4, 4)], [], MaskPolicy(dilate=0), [(4, 4)])
    indexer = native(edit_kernels, network, words=3)
    host_array(indexer.status)[:] = [7, 8, 9]
    indexer.begin(upload([np.eye(4, dtype=bool)]))
    indexer.list_active()
    counts, status = indexer.counts_and_status()
    assert counts == {"a": 4} and status == [7, 8, 9]
    assert indexer.block.shape == (4,) and indexer.status.pointer == indexer.block.pointer + 4


def test_what_does_not_fit_is_refused(edit_kernels: Kernels) -> None:
    network = Network(
        [Level("a", 4, 4), Level("b", 2, 2)], [], MaskPolicy(dilate=0, level_dilate=0), [(4, 4)]
    )
    indexer = native(edit_kernels, network)
    with pytest.raises(InputError, match=r"masks have shapes \[\[4, 5\]\]; expected \[\[4, 4\]\]"):
        indexer.begin(upload([np.zeros((4, 5), bool)]))
    indexer.begin(upload([np.eye(4, dtype=bool)]))
    indexer.list_active()
    indexer.counts_and_status()
    for rows in ({"a": 3, "b": 2}, {"a": 24, "b": 2}):
        with pytest.raises(
            InputError, match=r"do not fit: each must be at least the level's count \(\[4, 2\]\)"
        ):
            indexer.finish(rows)
    indexer.begin(upload([np.zeros((4, 4), bool)]))
    indexer.list_active()
    indexer.counts_and_status()
    with pytest.raises(InputError, match="0 where that is 0"):
        indexer.finish({"a": 8, "b": 0})
    pad = geo.pad(4, 0, 0)
    broken = Network([Level("a", 4, 4, "g")], [Geometry("g", "a", "a", pad, pad)], MaskPolicy(), [(4, 4)])
    with pytest.raises(BundleError, match="export the bundle again"):
        native(edit_kernels, broken)
