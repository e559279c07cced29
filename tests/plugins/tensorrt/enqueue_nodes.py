"""Builds nodes of plugins, which needs no GPU; run by the tests in a process of its own.

    python -m plugins.tensorrt.enqueue_nodes LIBRARY HOST

Theirs may hold another libsige_kernels, which would then serve the plugins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ..cuda import shape_of
from ..cuda_cases import Draw
from .enqueue import Host, HostError, Node, sizes
from .enqueue_check import DRAWS, bounds, edits

CASES = 8


def build(host: Host, name: str, op: str, seed: int, dtype: torch.dtype) -> None:
    """A node says its output for every edit, and a workspace that is enough for each."""
    draw = Draw(seed, small=True, device="cpu")
    inputs, attributes = getattr(draw, name)(dtype)
    node = Node(host, op, inputs, attributes, bounds(draw, op, inputs))
    for edit in edits(draw, (inputs, attributes)):
        stored = Node(host, op, edit, attributes, node.most, stored=True)
        exact = Node(host, op, edit, attributes, sizes(op, edit))
        expected = list(shape_of(op.lower(), edit, attributes))
        assert exact.largest == expected, (name, seed)
        assert stored.largest == node.largest and stored.workspace == node.workspace, (name, seed)
        assert exact.workspace <= node.workspace, (name, seed)
        if op != "Conv":  # which prepares products on a device
            assert node.shapes(edit) == stored.shapes(edit) == expected, (name, seed)
        stored.close()
        exact.close()
    node.close()


def refuse(host: Host) -> None:
    """Nodes that cannot be are refused in the step that finds out."""
    rows = torch.zeros(1, 4, 16)
    for inputs, attributes, reason in (
        ({"rows": rows, "weight": torch.zeros(1, 8, 8)}, {}, "configurePlugin failed"),
        ({"rows": rows, "weight": torch.zeros(1, 16, 8)}, {"activation_in": "mish"}, "createPlugin failed"),
        ({"rows": rows, "weight": torch.zeros(1, 16, 8)}, {"gate": "mish"}, "createPlugin failed"),
        ({"rows": rows, "weight": torch.zeros(1, 16, 7)}, {"gate": "gelu"}, "configurePlugin failed"),
        (
            {"rows": rows, "weight": torch.zeros(1, 16, 8), "scale": torch.zeros(1, 1, 16)},
            {"norm_epsilon": 1e-5},
            "createPlugin failed",
        ),
        ({"rows": rows.int(), "weight": rows}, {}, "supportsFormatCombination refuses tensor 0"),
    ):
        try:
            Node(host, "Conv", inputs, attributes, {"P": 4})
        except HostError as error:
            assert str(error) == reason, error
        else:
            raise AssertionError(reason)


def main() -> None:
    host = Host(Path(sys.argv[2]), Path(sys.argv[1]))
    for name, op in DRAWS.items():
        for dtype in (torch.float32, torch.float16):
            for seed in range(CASES):
                build(host, name, op, seed, dtype)
    refuse(host)
    print("all as expected")


if __name__ == "__main__":
    main()
