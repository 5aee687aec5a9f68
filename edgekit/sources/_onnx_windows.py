"""Images that are smaller than the window of a convolution or pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.sources._onnx_probe import Array, CannotRunError, Program

if TYPE_CHECKING:
    import onnx

_POOLS = ("AveragePool", "LpPool", "MaxPool", "QLinearAveragePool")
_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


class Watched(Program):
    """A program that does not run where an image is smaller than a window over it.

    ONNX Runtime pools over what there is, where ONNX defines an empty result and other engines refuse.
    """

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self._windows = {
            f"edgekit.window.{place}": window for place, window in enumerate(_windows(model.graph))
        }
        super().__init__(path, _with_shapes(model, self._windows))
        self.outputs = [output.name for output in model.graph.output]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """As `Program.run`; raises CannotRunError too where a window does not fit."""
        found = super().run(feeds, [*(outputs or self.outputs), *self._windows])
        for name, window in self._windows.items():
            window.refuse(tuple(found.pop(name).tolist()))
        return found


@dataclass(frozen=True)
class _Window:
    """A window of so many elements, its padding taken off."""

    label: str
    tensor: str
    sizes: tuple[int, ...]

    def refuse(self, shape: tuple[int, ...]) -> None:
        image = shape[2:]
        if len(image) == len(self.sizes) and any(
            have < need for have, need in zip(image, self.sizes, strict=True)
        ):
            told = " x ".join(map(str, image))
            raise CannotRunError(f"the image of {told} that '{self.label}' gets is smaller than its window")


def _windows(graph: onnx.GraphProto) -> list[_Window]:
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = (_window(node, dims) for node in graph.node)
    return [window for window in found if window is not None and max(window.sizes) > 1]


def _window(node: onnx.NodeProto, dims: Mapping[str, tuple[int, ...]]) -> _Window | None:
    """None for another operator, and where the size is not written down or padding makes it fit."""
    from onnx import helper

    if node.op_type not in (*_POOLS, *_WEIGHTS):
        return None
    said = {setting.name: helper.get_attribute_value(setting) for setting in node.attribute}
    place = _WEIGHTS.get(node.op_type)
    kernel = said.get("kernel_shape") or (dims.get(node.input[place], ())[2:] if place is not None else ())
    if not kernel or said.get("ceil_mode") or said.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    pads = said.get("pads") or [0] * 2 * len(kernel)
    steps = said.get("dilations") or [1] * len(kernel)
    around = [before + after for before, after in zip(pads, pads[len(kernel) :], strict=False)]
    sizes = ((size - 1) * step + 1 - free for size, step, free in zip(kernel, steps, around, strict=True))
    return _Window(node.name or node.output[0], node.input[0], tuple(sizes))


def _with_shapes(model: onnx.ModelProto, windows: Mapping[str, _Window]) -> onnx.ModelProto:
    """A copy that also tells the shape of what each window goes over."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name, window in windows.items():
        copy.graph.node.append(helper.make_node("Shape", [window.tensor], [name]))
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
    return copy
