"""Elementwise ops act on rows as they are; operands broadcast as in the dense graph."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.align import align
from sige_deploy.graph.builder import static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import require

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor "
    "Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Tan Tanh ThresholdedRelu"
).split()
NARY = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less "
    "LessOrEqual Max Mean Min "
    "Mod Mul Or Pow PRelu Sub Sum Where Xor CastLike"
).split()


@rule(*UNARY, *NARY)
def elementwise(node: ir.Node, ctx: Context) -> None:
    """f(x, y, ...) per element."""
    aligned = align(ctx, node.inputs)
    result = ctx.edit.op(node.op_type, aligned.operands, dict(node.attributes), dtype=node.outputs[0].dtype)
    output = node.outputs[0]
    require(static_shape(output) == aligned.layout.shape, "its result broadcasts beyond the grid")
    ctx.set_spatial(output, aligned.level, aligned.layout, aligned.finish(ctx, result))


@rule("Clip")
def clip(node: ir.Node, ctx: Context) -> None:
    """min and max are scalars."""
    aligned = align(ctx, node.inputs, keep_scalars=range(1, len(node.inputs)))
    result = ctx.edit.op("Clip", aligned.operands)
    ctx.set_spatial(node.outputs[0], aligned.level, aligned.layout, aligned.finish(ctx, result))


@rule("Dropout")
def dropout(node: ir.Node, ctx: Context) -> None:
    """The identity at inference."""
    require(len(node.outputs) == 1, "its mask output is used")
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    ctx.set_spatial(node.outputs[0], source.level, source.layout, source.rows)
