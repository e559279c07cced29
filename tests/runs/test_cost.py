"""Fewer bits cost decibels, and how many is measured."""

from __future__ import annotations

import numpy as np

import sige_deploy as sige
from sige_deploy.runs.cost import storage_costs

from .steps import MASK, edited, given


def test_storage_costs(session: sige.Session) -> None:
    costs = storage_costs(session, given(0), edited(0), MASK)
    assert list(costs) == ["exact", "float16", "int8"]
    assert costs["exact"].psnr == np.inf
    assert 60 < costs["float16"].psnr < 120 and 35 < costs["int8"].psnr < costs["float16"].psnr - 20
    assert costs["float16"].nbytes < costs["exact"].nbytes > costs["int8"].nbytes
