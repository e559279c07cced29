"""Reference of the sparse approximation, in plain torch, to check exported bundles against.

It shares nothing with the package's graph pass. The network is captured once by `torch.export` (norms and
attention stay whole) and interpreted node by node. Every value is carried three times: as it was for the
recorded inputs, as it is for the edited ones (`mixed`), and as a map `pos` that names, for each element,
the pixel that the element belongs to. Layout operations act on `pos` as on any tensor, so channels-last,
tokens, heads and padded copies need no rules of their own.

The approximation itself:

* a spatial value is `where(its pixel is active, op(mixed inputs), recorded)`; a neighbourhood
  that reads a re-indexed image (padded, cropped, enlarged by nearest) reads the mixed image behind it;
* what moves pixels about (flip, roll, tokens put among pixels) is fresh everywhere, and so is all that
  follows until it meets a value with pixels in an elementwise operation or a concatenation;
* whatever is reduced over space (statistics, gates) is the recorded value, unless it is itself an output;
* score matrices belong to their query rows; keys and values are mixed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

Masks = Mapping[tuple[int, int], Tensor]

_LAYOUT = set(
    """view reshape _unsafe_view permute transpose t flatten unflatten unsqueeze squeeze expand expand_as
    repeat contiguous clone cat concat stack split split_with_sizes chunk unbind select slice narrow alias
    movedim detach pad constant_pad_nd pixel_shuffle pixel_unshuffle getitem upsample_nearest2d
    upsample_nearest_exact2d
    """.split()
)
_NEIGHBOURHOOD = set(
    """conv2d conv_transpose2d convolution max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d
    upsample_bilinear2d upsample_bicubic2d
    """.split()
)
_REDUCTION = {"mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm"}
_PRODUCT = {"linear", "matmul", "bmm", "mm", "baddbmm", "einsum", "scaled_dot_product_attention"}
_NO_PIXEL = torch.tensor(-1.0, dtype=torch.float64)


@dataclass
class Value:
    """A value of the run: recorded, mixed, and the pixel of each element (float64; -1: no pixel).

    `pos` is None where nothing is spatial. For operations with several outputs all three are tuples.
    `view` marks a re-indexed image: its pixels are still those of the image behind it. `whole` marks a value
    that is fresh everywhere: it knows no pixels.
    """

    recorded: Any
    mixed: Any
    pos: Any = None
    view: bool = False
    whole: bool = False


class Reference:
    """The network as a graph that can be run sparsely.

    `example_inputs` are forward()'s arguments by name; `spatial` names those whose last two axes are Y, X.
    """

    def __init__(
        self, module: nn.Module, example_inputs: Mapping[str, Tensor], spatial: Sequence[str]
    ) -> None:
        with torch.no_grad():
            program = torch.export.export(module, (), dict(example_inputs), strict=False)
            self._program = program.run_decompositions({})
        self.nodes = list(self._program.graph.nodes)
        self._spatial = set(spatial)
        self._constants: dict[str, Tensor] = {}
        self._inputs: dict[str, str] = {}
        for spec in self._program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                self._inputs[spec.arg.name] = spec.arg.name
            else:
                assert spec.target is not None
                held = self._program.state_dict.get(spec.target, self._program.constants.get(spec.target))
                self._constants[spec.arg.name] = held  # type: ignore[assignment]

    @torch.no_grad()
    def run(self, recorded: Mapping[str, Tensor], *edits: tuple[Mapping[str, Tensor], Masks]) -> list[Tensor]:
        """Outputs of the last of several edits (inputs, masks), each committed before the next, as ordered by
        forward().

        `masks` maps (H, W) to the bool [H, W] mask of active pixels at that level; it must hold every level
        of the network that is more than a re-reading of another one (padding, cropping).
        """
        base: dict[str, Any] = {}
        for edited, masks in edits:
            values = {name: Value(held, held) for name, held in self._constants.items()}
            run = _Run(masks, base)
            for name in self._inputs:
                if name in self._spatial:
                    values[name] = run.spatial_input(name, recorded[name], edited[name])
                else:
                    values[name] = Value(recorded[name], edited[name])
            outputs = run.interpret(self.nodes, values)
            base = {name: value.mixed for name, value in values.items()}
        return outputs


class _Pixels:
    """Pixels of all levels in one numbering."""

    def __init__(self, masks: Masks) -> None:
        self._start: dict[tuple[int, int], int] = {}
        flat, start = [], 0
        for (height, width), mask in masks.items():
            self._start[height, width] = start
            start += height * width
            flat.append(torch.as_tensor(mask, dtype=torch.bool).reshape(height * width))
        self._flat = torch.cat([*flat, torch.zeros(1, dtype=torch.bool)])  # the last answers for "no pixel"

    def __contains__(self, size: tuple[int, int]) -> bool:
        return size in self._start

    def natural(self, shape: Sequence[int]) -> Tensor:
        """Positions of a [..., H, W] tensor whose last two axes are the pixels of level (H, W)."""
        height, width = shape[-2:]
        if (height, width) not in self._start:
            raise KeyError(f"no mask for level {height}x{width}; known: {sorted(self._start)}")
        pixels = torch.arange(height * width, dtype=torch.float64).reshape(height, width)
        return (pixels + self._start[height, width]).expand(tuple(shape)).clone()

    def regrouped(self, pos: Tensor) -> Tensor | None:
        """Positions on the level that a reshape leads to: one axis pair (H, W) cut to (H/b, b, W/b, b) makes
        pixels of the coarser level, merging them back makes pixels of the finer one."""
        start, (height, width) = max((s, size) for size, s in self._start.items() if s <= pos.max())
        shape = tuple(pos.shape)
        for h, w in self._start.keys() - {(height, width)}:
            cuts = height % h == 0 and width % w == 0
            if not cuts and (h % height or w % width):
                continue
            by, bx = (height // h, width // w) if cuts else (h // height, w // width)
            block = (h, by, w, bx) if cuts else (h, w)
            fine, coarse = ((height, width), (h, w)) if cuts else ((h, w), (height, width))
            pixel = torch.arange(fine[0] * fine[1]).reshape(fine)
            of_fine = (pixel // fine[1] // by * coarse[1] + pixel % fine[1] // bx).reshape(block)
            expected, target = (pixel.reshape(block), of_fine) if cuts else (of_fine, pixel)
            for axis in range(len(shape) - len(block) + 1):
                if shape[axis : axis + len(block)] == block:
                    spread = [1] * axis + list(block) + [1] * (len(shape) - axis - len(block))
                    if bool((pos == expected.reshape(spread) + start).all()):
                        return (target.reshape(spread) + self._start[h, w]).double().expand(shape)
        return None

    def active(self, pos: Tensor) -> Tensor:
        return self._flat[pos.long()]


class _Run:
    """One edit; `base` holds every value as the last committed edit left it, and is empty at first."""

    def __init__(self, masks: Masks, base: Mapping[str, Any]) -> None:
        self._pixels = _Pixels(masks)
        self._base = base
        self._now = ""  # the value being computed

    def spatial_input(self, name: str, recorded: Tensor, edited: Tensor) -> Value:
        self._now = name
        return self._mix(recorded, edited, self._pixels.natural(recorded.shape))

    def interpret(self, nodes: Sequence[Node], values: dict[str, Value]) -> list[Tensor]:
        for node in nodes:
            if node.op == "call_function":
                values[node.name] = self._call(node, values)
            elif node.op == "output":
                self._anchor(*node.all_input_nodes, values=values)
                return [_fresh(out, values) for out in node.args[0]]  # type: ignore[union-attr, arg-type]
        raise AssertionError("graph without an output")

    def _call(self, node: Node, values: dict[str, Value]) -> Value:
        def evaluate(part: str) -> Any:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: getattr(values[n.name], part))
            return _apply(node, args, kwargs)

        recorded = evaluate("recorded")
        if recorded is None or all(values[n.name].pos is None for n in node.all_input_nodes):
            return Value(recorded, evaluate("mixed"))  # None: an assertion about a tensor
        name = _name(node)
        reindexes = _reindexes(name, node)
        if not reindexes and name not in _NEIGHBOURHOOD:
            self._anchor(*node.all_input_nodes, values=values)
        operands = [values[n.name] for n in node.all_input_nodes]
        self._now = node.name
        if all(o.whole for o in operands if o.pos is not None) or _scatters(node, name, values):
            return Value(recorded, evaluate("mixed"), _NO_PIXEL, whole=True)
        if "batch_norm" in name and isinstance(recorded, (tuple, list)):
            # The outputs beside the first are of training only.
            kept = self._mix(recorded[0], evaluate("mixed")[0], operands[0].pos)
            return Value((kept.recorded,), (kept.mixed,), (kept.pos,))

        if name == "cat" and any(o.whole or o.pos is None for o in operands):
            pos = next(o.pos for o in operands if o.pos is not None and not o.whole)
            pos = pos.narrow(node.args[1] if len(node.args) > 1 else 0, 0, 1)  # type: ignore[arg-type]
            return self._mix(recorded, evaluate("mixed"), pos.expand(recorded.shape))
        if name in _LAYOUT:
            fill = lambda n: _pos_or_none(values[n.name])  # noqa: E731
            pos = _move(node, fill)
            if name in {"pixel_shuffle", "pixel_unshuffle"}:
                return self._mix(recorded, evaluate("mixed"), self._pixels.natural(recorded.shape))
            regrouped = self._pixels.regrouped(pos) if name in {"view", "reshape", "_unsafe_view"} else None
            if regrouped is not None:
                return self._mix(recorded, evaluate("mixed"), regrouped)
            return Value(recorded, evaluate("mixed"), _none_if_no_pixel(pos), reindexes)
        if name in {"group_norm", "instance_norm", "layer_norm"}:
            fixed = _recorded_norm(name, node, operands[0], values)
            if fixed is not None:
                return self._mix(recorded, fixed, operands[0].pos)
        if name in _REDUCTION or (name == "adaptive_avg_pool2d" and recorded.shape[-2:].numel() == 1):
            pos = _reduced(name, node, operands[0].pos, recorded)
            return Value(recorded, recorded) if pos is None else self._mix(recorded, evaluate("mixed"), pos)
        if name in _PRODUCT:
            pos = _product(name, node, values, recorded)
            if pos is None:
                return Value(recorded, recorded)
        elif name in _NEIGHBOURHOOD:
            pos = self._pixels.natural(recorded.shape)
        elif name == "conv1d":  # over tokens, channels first
            pos = operands[0].pos[:, :1].expand(recorded.shape)
        else:
            pos = _broadcast([o.pos for o in operands if o.pos is not None and not o.whole], recorded, node)
        return self._mix(recorded, evaluate("mixed"), pos)

    def _anchor(self, *nodes: Node, values: dict[str, Value]) -> None:
        """Give re-indexed images pixels of their own, for good; sizes that are no level stay as they are."""
        for node in nodes:
            value = values[node.name]
            if value.view and tuple(value.recorded.shape[-2:]) in self._pixels:
                self._now = node.name
                pos = self._pixels.natural(value.recorded.shape)
                values[node.name] = self._mix(value.recorded, value.mixed, pos)
            value.view = False

    def _mix(self, recorded: Tensor, fresh: Tensor, pos: Tensor) -> Value:
        before = self._base.get(self._now, recorded)
        if isinstance(before, tuple):
            before = before[0]
        return Value(recorded, torch.where(self._pixels.active(pos), fresh, before), pos)


def _scatters(node: Node, name: str, values: Mapping[str, Value]) -> bool:
    """Whether an operation puts pixels in each other's places, or other things among them."""
    if name == "cat":
        axis: Any = node.args[1] if len(node.args) > 1 else 0
        maps = [values[n.name].pos for n in node.all_input_nodes]
        return any(p is not None and p.dim() > 0 and _constant_over(p, [axis]) is None for p in maps)
    if name not in {"roll", "flip"}:
        return False
    before = _pos_or_none(values[node.all_input_nodes[0].name])
    return not torch.equal(_move(node, lambda n: before), before)


def _fresh(node: Node, values: Mapping[str, Value]) -> Any:
    """A value as an output: what is not spatial is computed from mixed values, statistics included."""
    if node.op != "call_function" or values[node.name].pos is not None:
        return values[node.name].mixed
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: _fresh(n, values))
    return _apply(node, args, kwargs)


def _name(node: Node) -> str:
    return "getitem" if node.target is operator.getitem else node.target.overloadpacket.__name__  # type: ignore


def _reindexes(name: str, node: Node) -> bool:
    """Whether an operation moves the pixels of an image [B, C, H, W] and does nothing else."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() != 4:
        return False
    if name in {"slice", "narrow"}:
        return len(node.args) > 1 and node.args[1] in (2, 3, -1, -2)
    return name in {"pad", "constant_pad_nd"} or name.startswith("upsample_nearest")


def _pos_or_none(value: Value) -> Any:
    if value.pos is not None:
        return value.pos
    return torch.full(value.recorded.shape, -1.0, dtype=torch.float64)


def _none_if_no_pixel(pos: Any) -> Any:
    if isinstance(pos, (tuple, list)):
        return tuple(pos)
    return pos if bool((pos >= 0).any()) else None


def _move(node: Node, lookup: Callable[[Node], Any]) -> Any:
    """Positions after a layout operation: the operation itself, done to positions; padding is no pixel."""
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lookup)
    name = getattr(node.target, "__name__", "")
    if name.startswith(("pad.", "constant_pad_nd")):
        mode = args[2] if len(args) > 2 and name.startswith("pad.") else kwargs.get("mode", "constant")
        if mode == "constant":
            return torch.nn.functional.pad(args[0], args[1], value=-1.0)
    return _apply(node, args, kwargs)


def _apply(node: Node, args: Any, kwargs: Any) -> Any:
    target: Any = node.target
    if target is torch.ops.aten.view.default:  # mixing loses the strides that a view counts on
        target = torch.ops.aten.reshape.default
    return target(*args, **kwargs)


def _constant_over(pos: Tensor, dims: Sequence[int]) -> Tensor | None:
    """`pos` with `dims` reduced to size 1, or None if the elements along them belong to different pixels."""
    high = pos.amax(tuple(dims), keepdim=True)
    return high if bool((high == pos.amin(tuple(dims), keepdim=True)).all()) else None


def _broadcast(maps: list[Tensor], out: Tensor, node: Node) -> Tensor:
    pos = torch.full(out.shape, -1.0, dtype=torch.float64)
    for other in maps:
        other = other.expand(out.shape)
        if not bool(((pos == other) | (pos < 0) | (other < 0)).all()):
            raise ValueError(f"{node.format_node()}: operands belong to different pixels")
        pos = torch.maximum(pos, other)
    return pos


def _reduced(name: str, node: Node, pos: Tensor, out: Tensor) -> Tensor | None:
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if name.startswith("adaptive"):
        dims = (-2, -1)
    elif name in {"linalg_vector_norm", "norm"}:
        dims = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
    if dims is None or dims == []:
        dims = range(pos.dim())
    kept = _constant_over(pos, [dims] if isinstance(dims, int) else dims)
    return None if kept is None else kept.reshape(out.shape)


def _product(name: str, node: Node, values: Mapping[str, Value], out: Tensor) -> Tensor | None:
    """Positions of a matrix product: of the first operand whose pixels survive the contraction."""
    if name == "einsum":
        equation, nodes = node.args
        left, target = str(equation).replace(" ", "").split("->")
        for labels, operand in zip(left.split(","), nodes, strict=True):  # type: ignore[arg-type]
            pos = values[operand.name].pos
            gone = [i for i, label in enumerate(labels) if label not in target]
            kept = pos if pos is None or not gone else _constant_over(pos, gone)
            if kept is not None:
                rest = [label for label in labels if label in target]
                kept = kept.squeeze(gone).permute([rest.index(label) for label in target if label in rest])
                shape = [size if label in rest else 1 for label, size in zip(target, out.shape, strict=True)]
                return kept.reshape(shape).expand(out.shape)
        return None
    first, second = (values[n.name].pos for n in node.args[1 if name == "baddbmm" else 0 :][:2])  # type: ignore
    if first is not None:
        kept = _constant_over(first, [-1])
        if kept is not None:
            return kept.expand(out.shape)
    if second is not None and name not in {"linear", "scaled_dot_product_attention"}:
        kept = _constant_over(second, [-2])
        if kept is not None:
            return kept.expand(out.shape)
    if name == "linear" and first is not None and first.shape == out.shape:
        return first  # mixes pixels along a spatial axis
    return None


def _recorded_norm(name: str, node: Node, x: Value, values: Mapping[str, Value]) -> Tensor | None:
    """The mixed input under the affine of the recorded run; None for a norm that stays within each pixel."""

    def argument(index: int) -> Any:
        arg = node.args[index] if index < len(node.args) else None
        return values[arg.name].mixed if isinstance(arg, Node) else arg

    before: Tensor = x.recorded
    if name == "layer_norm":
        dims = tuple(range(-len(argument(1)), 0))
        if _constant_over(x.pos, dims) is not None:
            return None
        weight, bias, eps = argument(2), argument(3), argument(4)
        variance, mean = torch.var_mean(before, dims, correction=0, keepdim=True)
    else:
        weight, bias = (argument(2), argument(3)) if name == "group_norm" else (argument(1), argument(2))
        eps = argument(4) if name == "group_norm" else argument(7)
        batch, channels = before.shape[:2]
        groups = argument(1) if name == "group_norm" else channels
        grouped = before.reshape(batch, groups, -1)
        variance, mean = torch.var_mean(grouped, -1, correction=0)
        each = [batch, channels] + [1] * (before.dim() - 2)
        variance, mean = (s.repeat_interleave(channels // groups, 1).reshape(each) for s in (variance, mean))
        weight, bias = (None if p is None else p.reshape(each[1:]) for p in (weight, bias))
    fresh = (x.mixed - mean) * torch.rsqrt(variance + (1e-5 if eps is None else eps))
    fresh = fresh if weight is None else fresh * weight
    return fresh if bias is None else fresh + bias
