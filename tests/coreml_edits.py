"""An edit of a bundle by ONNX Runtime in float32, and the same edit in a written Core ML model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import sige_deploy as sige
from sige_deploy import rows
from sige_deploy.coreml.context import Context, context_of, pad_rows
from sige_deploy.coreml.interpreter import Interpreter, read_model
from sige_deploy.coreml.numpy_layers import NUMPY, Implementation, to_rows
from sige_deploy.indices import ActivePixels, EditIndices, Indexer

Arrays = dict[str, np.ndarray]


@dataclass
class Edit:
    """A recorded input and an edited one; mask: bool [H, W] at the first spatial input's size; active: the
    active pixels of each level, if they are not to follow from it."""

    bundle: sige.Bundle
    recorded: Arrays
    edited: Arrays
    mask: np.ndarray
    active: dict[str, np.ndarray] | None = None

    @cached_property
    def record(self) -> Arrays:
        """Outputs and caches of the dense pass."""
        return self._run("record.onnx", self.recorded)

    @cached_property
    def indices(self) -> EditIndices:
        bundle = self.bundle
        indexer = Indexer(bundle.levels(), bundle.geometries(), bundle.policy())
        if self.active is not None:
            return indexer.feed(ActivePixels(self.active))
        return indexer.build([self.mask] * len(bundle.manifest.spatial()))

    @cached_property
    def feeds(self) -> Arrays:
        """Of the edit graph, without bases."""
        fresh = {
            f"rows.{s.name}": rows.take(s, self.edited[s.name], self.indices.feeds[f"active.{s.level}"])
            for s in self.bundle.manifest.spatial()
        }
        return {**self.indices.feeds, **fresh}

    @cached_property
    def expected(self) -> Arrays:
        """ONNX Runtime's: active rows of each output of the edit graph, by name."""
        return self._active(self._run("edit_inlined.onnx", {**self.record, **self.feeds}))

    def bucket(self, buckets: list[dict[str, int]]) -> int:
        """The first that holds the edit."""
        counts = self.indices.counts
        return next(k for k, b in enumerate(buckets) if all(b[id_] >= n for id_, n in counts.items()))

    def context(self, bucket: Mapping[str, int]) -> Context:
        manifest = self.bundle.manifest
        phases = {g.id: g.phases for g in self.bundle.geometries()}
        recorded = {cache.name: self.record[cache.name] for cache in manifest.caches}
        return context_of(self.indices, bucket, manifest, phases, recorded)

    def run(
        self, path: Path, bucket: Mapping[str, int], layers: Mapping[str, Implementation] = NUMPY
    ) -> Arrays:
        """What the edit model of a bucket gives: active rows by name."""
        model = read_model(path)
        given = {**self.record, **self.feeds}
        inputs = {
            x.name: pad_rows(given[x.name], x.type.multiArrayType.shape[3]) for x in model.description.input
        }
        outputs = Interpreter(model, layers).predict(inputs, self.context(bucket))
        return self._active({name: to_rows(tensor) for name, tensor in outputs.items()})

    def _active(self, outputs: Mapping[str, np.ndarray]) -> Arrays:
        manifest = self.bundle.manifest
        levels = {o.rows: o.level for o in manifest.outputs}
        levels |= {cache.rows: cache.level for cache in manifest.caches if cache.rows}
        return {name: x[:, : self.indices.counts[levels[name] or ""]] for name, x in outputs.items()}

    def _run(self, file: str, feeds: Mapping[str, np.ndarray]) -> Arrays:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.bundle.path(file), options)
        names = [node.name for node in session.get_outputs()]
        given: dict[str, Any] = {node.name: feeds[node.name] for node in session.get_inputs()}
        return dict(zip(names, session.run(names, given)))


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the expected values' range."""
    if expected.size == 0:
        return 0.0
    return float(np.abs(got - expected).max() / np.ptp(expected))
