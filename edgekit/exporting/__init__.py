"""torch -> ONNX: recurrent layers kept whole, graph clean-up, unseen-shape re-check."""

from edgekit.exporting.export import export_onnx
from edgekit.exporting.recheck import recheck

__all__ = ["export_onnx", "recheck"]
