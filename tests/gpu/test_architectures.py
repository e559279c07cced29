"""Every architecture of the zoo on a GPU, in float32 and float16, against the same bundle on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from checking import assert_same, blob_and_dust, edited
from torch import Tensor
from zoo import ZOO

import sige_deploy as sige

TOLERANCE = {"as_given": 2e-4, "float16": 2e-2}
OF_THE_RECORD = {"as_given": 2e-5, "float16": 1e-2}  # where both are of the GPU

Inputs = dict[str, Tensor]


class Pair:
    """One bundle on the GPU and on the CPU, with the same record."""

    def __init__(self, name: str, precision: str, path: Path, device: str) -> None:
        self.entry = ZOO[name]
        self.tolerance, self.of_the_record = TOLERANCE[precision], OF_THE_RECORD[precision]
        config = sige.SparseConfig(dense_above=1.0, precision=precision, **self.entry.config)
        sige.export(
            self.entry.module(),
            self.entry.example_inputs(0),
            path,
            spatial=list(self.entry.spatial),
            config=config,
            free=list(self.entry.free),
        )
        self._types = {
            spec.name: getattr(torch, spec.dtype) for spec in sige.open_bundle(path).manifest.inputs
        }
        self.gpu, self.cpu = sige.open(path, device), sige.open(path, threads=1)
        self.recorded = self.cast(self.entry.example_inputs(1))
        self.outputs = self.record()

    def cast(self, inputs: Inputs) -> Inputs:
        return {name: value.to(self._types[name]) for name, value in inputs.items()}

    def change(self, seed: int) -> tuple[Inputs, np.ndarray]:
        return self.cast(edited(self.entry, self.recorded, seed)), blob_and_dust(self.entry, seed)

    def record(self) -> list[Tensor]:
        wanted = list(self.cpu.record(**self.recorded).values())
        got = self.gpu.record(**{name: value.cuda() for name, value in self.recorded.items()})
        assert all(value.is_cuda for value in got.values())
        assert_same([value.cpu() for value in got.values()], wanted, self.tolerance)
        return [value.cpu() for value in got.values()]

    def edit(self, inputs: Inputs, mask: np.ndarray) -> list[Tensor]:
        """Of the GPU. Two edits of one size: the later one may run a captured graph; what came before is
        poisoned."""
        on_gpu = {name: value.cuda() for name, value in inputs.items()}
        for _ in range(2):
            first = self.gpu.edit(**on_gpu, mask=mask)
            assert self.gpu.report.path == "sparse"
            copies = [value.cpu() for value in first.values()]
            for value in first.values():
                value.zero_()
        again = [value.cpu() for value in self.gpu.edit(**on_gpu, mask=mask).values()]
        assert_same(again, copies, 1e-6)
        return again


@pytest.fixture(scope="module")
def pair(device: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pair]:
    folder = tmp_path_factory.mktemp("zoo")

    @cache
    def once(name: str, precision: str) -> Pair:
        return Pair(name, precision, folder / f"{name}-{precision}", device)

    return once


pytestmark = [pytest.mark.parametrize("precision", TOLERANCE), pytest.mark.parametrize("name", ZOO)]


def test_the_recorded_input_as_edit_gives_the_record(
    name: str, precision: str, pair: Callable[[str, str], Pair]
) -> None:
    case = pair(name, precision)
    for seed in range(2):
        got = case.edit(case.recorded, blob_and_dust(case.entry, seed))
        assert_same(got, case.outputs, case.of_the_record)


def test_edits_and_commits_are_those_of_the_cpu(
    name: str, precision: str, pair: Callable[[str, str], Pair]
) -> None:
    case = pair(name, precision)
    try:
        for seed in range(2, 5):
            inputs, mask = case.change(seed)
            wanted = list(case.cpu.edit(**inputs, mask=mask).values())
            assert_same(case.edit(inputs, mask), wanted, case.tolerance)
            case.cpu.commit()
            case.gpu.commit()
    finally:
        case.record()
