"""How a dense tensor's axes map onto rows.

A dense activation of any rank is described by the *atoms* of its axes: the batch ``N``, the grid's ``Y`` and
``X``, and any number of channel factors ``C``. A reshape or transpose only regroups atoms, so in the sparse
graph it costs
nothing: the rows ``[B, P, C]`` stay as they are and only the description changes. Atoms of size 1 are left
out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


class Refusal(Exception):
    """A rule declines a node; the text says why and goes into the export report."""


@dataclass(frozen=True, eq=False)
class Atom:
    """One indivisible factor of an axis; compared by identity. ``kind`` is N, Y, X or C."""

    kind: str
    size: int

    def __repr__(self) -> str:
        return f"{self.kind}{self.size}"


Dims = tuple[tuple[Atom, ...], ...]


def size_of(atoms: Iterable[Atom]) -> int:
    return math.prod(atom.size for atom in atoms)


def channel_atoms(dims: Dims) -> tuple[Atom, ...]:
    """The C atoms in reading order."""
    return tuple(atom for dim in dims for atom in dim if atom.kind == "C")


@dataclass(frozen=True)
class Layout:
    """Axes of the dense tensor in atoms, and the order (slowest first) of the C atoms along the rows' last
    axis."""

    dims: Dims
    order: tuple[Atom, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def channels(self) -> int:
        return size_of(self.order)

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W); an axis of one pixel has no atom."""
        sizes = {atom.kind: atom.size for dim in self.dims for atom in dim}
        return sizes.get("Y", 1), sizes.get("X", 1)

    @property
    def is_image(self) -> bool:
        """Whether the axes are [N, C, Y, X]."""
        kinds = [{a.kind for a in dim} for dim in self.dims]
        return (
            len(kinds) == 4 and all(k <= {i} for k, i in zip(kinds, "NCYX")) and self.shape[2:] == self.grid
        )

    def joined(self) -> Layout:
        """The same tensor with neighbouring channel atoms as one; for rows in reading order."""
        flat: list[Atom] = []
        for atom in (a for dim in self.dims for a in dim):
            if flat and flat[-1].kind == atom.kind == "C":
                flat[-1] = Atom("C", flat[-1].size * atom.size)
            else:
                flat.append(atom)
        return Layout((tuple(flat),), tuple(a for a in flat if a.kind == "C"))

    def is_channels(self, axis: int) -> bool:
        return all(atom.kind == "C" for atom in self.dims[axis])

    def has_space(self, axis: int) -> bool:
        return any(atom.kind in "YX" for atom in self.dims[axis])

    def transpose(self, perm: Sequence[int]) -> Layout:
        return replace(self, dims=tuple(self.dims[p] for p in perm))

    def reading_order(self) -> tuple[Atom, ...]:
        return channel_atoms(self.dims)

    def reshape(self, shape: Sequence[int], cuts: dict[Atom, tuple[Atom, Atom]] | None = None) -> Layout:
        """Regroup atoms row-major into ``shape``; splits C atoms where needed.

        Refuses to cut the batch, and the grid unless ``cuts`` is given: it then receives, for Y or X, the
        coarse atom and the block (a new C atom that is in the dims but not yet in the order).
        """
        queue = [atom for dim in self.dims for atom in dim]
        split: dict[Atom, tuple[Atom, Atom]] = {}
        dims: list[tuple[Atom, ...]] = []
        for size in shape:
            need, group = size, []
            while need > 1:
                if not queue:
                    raise Refusal("the reshape changes the number of elements")
                atom = queue.pop(0)
                if need % atom.size == 0:
                    group.append(atom)
                    need //= atom.size
                    continue
                if atom.size % need or (atom.kind != "C" and (cuts is None or atom.kind == "N")):
                    what = {"C": "channels", "N": "the batch"}.get(atom.kind, "the pixel grid")
                    raise Refusal(f"the reshape cuts through {what}")
                halves = Atom(atom.kind, need), Atom("C", atom.size // need)
                if atom.kind == "C":
                    split[atom] = halves
                else:
                    assert cuts is not None
                    cuts[atom] = halves
                group.append(halves[0])
                queue.insert(0, halves[1])
                need = 1
            dims.append(tuple(group))
        if queue:
            raise Refusal("the reshape changes the number of elements")
        return Layout(tuple(dims), _substitute(self.order, split))

    def refine(self, axis: int, sizes: Sequence[int]) -> Layout:
        """Split the C atoms of one axis so that the axis has exactly the atom sizes given."""
        before, after = self.dims[:axis], self.dims[axis + 1 :]
        flat = Layout((self.dims[axis],), self.order).reshape(sizes)
        return Layout((*before, tuple(a for dim in flat.dims for a in dim), *after), flat.order)


def _substitute(order: tuple[Atom, ...], split: dict[Atom, tuple[Atom, Atom]]) -> tuple[Atom, ...]:
    result: list[Atom] = []
    for atom in order:
        if atom in split:
            result.extend(_substitute(split[atom], split))
        else:
            result.append(atom)
    return tuple(result)


def image_layout(shape: Sequence[int]) -> Layout:
    """[B, C, H, W] or [C, H, W]."""
    kinds = "NCYX"[4 - len(shape) :]
    dims = tuple((Atom(kind, n),) if n > 1 else () for kind, n in zip(kinds, shape, strict=True))
    return Layout(dims, channel_atoms(dims))


def rows_atoms(layout: Layout) -> tuple[Atom, ...]:
    """The atoms present, in the order of a base tensor [B, H*W, C]: N, Y, X, then the channel order."""
    grid = [a for kind in "NYX" for dim in layout.dims for a in dim if a.kind == kind]
    return (*grid, *layout.order)


def common_factors(chains: list[tuple[Atom, ...]]) -> list[tuple[str, int]]:
    """The common refinement (kind, size) of several atom sequences that describe the same axis."""
    queues = [[(a.kind, a.size) for a in chain] for chain in chains]
    result: list[tuple[str, int]] = []
    while any(queues):
        if not all(queues):
            raise Refusal("operands pair unlike axes")
        kinds = {queue[0][0] for queue in queues}
        if len(kinds) > 1:
            pair = "the pixel grid with channels" if "C" in kinds else "unlike axes of the pixel grid"
            raise Refusal(f"operands pair {pair}")
        kind = kinds.pop()
        step = math.gcd(*(queue[0][1] for queue in queues)) if kind == "C" else queues[0][0][1]
        for queue in queues:
            size = queue[0][1]
            if size % step or step == 1 or (kind != "C" and size != step):
                raise Refusal("operands factor an axis in incompatible ways")
            queue[0] = (kind, size // step)
            if size == step:
                queue.pop(0)
        result.append((kind, step))
    return result
