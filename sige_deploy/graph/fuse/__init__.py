"""Fusing elementwise work into the ops that read or write the rows anyway.

    epilogue   act((conv(x) + bias + embedding) * multiplier + residual)   behind a Conv
               act(gather(x))                                              behind a Gather
    columns    channels of conv(x) split, sliced or permuted               as Convs of chosen columns
    gates      conv(x) * act(conv'(x))                                     as one Conv
    prologue   conv(act(x * scale + shift))                                in front of every Conv or Gather
    chains     act(x * scale + shift)                                      what is left becomes one Gather
    sources    conv(concat(x, y))                                          as a Conv of two sources
    siblings   x W1, x W2, ... of a text or an embedding x                 as one product
    norms      conv(layer_norm(x))                                         as a Conv by the deviation
    parts      attention(split(x))                                         reads its parts of x

Every step saves a pass over rows, and a launch. The prologue changes what is recorded: the base is x itself,
before norm and activation, and its readers apply both to fresh rows and halo alike (docs/ops.md gives the
order). Values are the same.
"""

from __future__ import annotations

from sige_deploy.graph.context import Context
from sige_deploy.graph.fuse.chains import fuse_chains
from sige_deploy.graph.fuse.columns import fuse_columns
from sige_deploy.graph.fuse.epilogue import fuse_epilogues
from sige_deploy.graph.fuse.gates import fuse_gates
from sige_deploy.graph.fuse.norms import fuse_norms
from sige_deploy.graph.fuse.parts import fuse_parts
from sige_deploy.graph.fuse.prologue import fuse_prologues
from sige_deploy.graph.fuse.siblings import fuse_siblings
from sige_deploy.graph.fuse.sources import fuse_sources
from sige_deploy.graph.fuse.state import Fusion

__all__ = ["fuse"]


def fuse(ctx: Context) -> None:
    """Fuse what can be in the edit graph; replaced nodes are gone."""
    fusion = Fusion(ctx)
    fuse_epilogues(fusion)
    fuse_columns(fusion)
    fuse_epilogues(fusion)
    fuse_gates(fusion)
    fuse_prologues(fusion)
    fuse_chains(fusion)
    fuse_sources(fusion)
    fuse_siblings(fusion)
    fuse_norms(fusion)
    fuse_parts(fusion)
