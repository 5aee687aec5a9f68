"""torch -> ONNX: recurrent layers kept whole, graph clean-up, unseen-shape re-check."""

from edgekit.exporting.adopt import adopt_onnx
from edgekit.exporting.export import export_onnx
from edgekit.exporting.recheck import recheck

__all__ = ["adopt_onnx", "export_onnx", "recheck"]
