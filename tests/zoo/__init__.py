"""Small architectures of many kinds, with random weights: what an exporter has to cope with.

Every module is plain torch, seeded, in eval mode, and small enough to export and run in seconds on one core.
Weights are scaled so that activations stay of order one through the network: a wrong pixel then shows.
"""

from zoo import attention, borders, conditioning, diffusion, generators, norms, transformers, unknown
from zoo.registry import ZOO, Entry

__all__ = ["ZOO", "Entry"]
__all__ += [
    "attention", "borders", "conditioning", "diffusion", "generators", "norms", "transformers", "unknown",
]  # fmt: skip
