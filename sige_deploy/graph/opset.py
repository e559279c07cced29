"""Models of any opset at the one that the rules are written for."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.errors import ExportError
from sige_deploy.ops import OPSET


def at_opset(model: ir.Model) -> ir.Model:
    """The model at opset 23: older ones are converted, newer ones are taken as they are where their ops are
    known.

    Raises ExportError when that cannot be done.
    """
    version = model.opset_imports.get("", OPSET)
    if version < OPSET:
        return _upgraded(model, version)
    if version > OPSET:
        _check_known(model, version)
        model.opset_imports[""] = OPSET
    return model


def _upgraded(model: ir.Model, version: int) -> ir.Model:
    import onnx.version_converter

    try:
        converted = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), OPSET))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ExportError(
            f"The model's opset {version} cannot be converted to {OPSET} ({reason}); export it again with "
            f"opset {OPSET}."
        ) from error
    if version < 11:  # Resize and Upsample had one coordinate rule then, which the converter does not note
        for node in converted.graph.all_nodes():
            if node.op_type == "Resize" and node.domain == "":
                node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                    "coordinate_transformation_mode", "asymmetric"
                )
                node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
    return converted


def _check_known(model: ir.Model, version: int) -> None:
    """Newer versions of an op are of the same meaning as long as they use nothing that is new."""
    import onnx.defs

    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, OPSET)
            known = set(node.attributes) <= set(schema.attributes) and len(node.inputs) <= schema.max_input
        except onnx.defs.SchemaError:
            known = False
        if not known:
            raise ExportError(
                f"The model uses {node.op_type} of opset {version} in a way that opset {OPSET} "
                f"does not have; "
                f"export it again with opset {OPSET}."
            )
