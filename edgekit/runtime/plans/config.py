"""What a request asks of TensorRT's builder configuration, name by name."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

from ..errors import UnsupportedError, UsageError
from .features import Features, compute_capabilities
from .request import BuildRequest

KEEP_FLOAT = "edgekit.fp32"
"""In the name of an ONNX node, and so of its layer, that must not be computed in less than float32."""
_DLA_PRECISIONS = ("fp16", "int8")


def refuse_request(trt: Any, features: Features, request: BuildRequest) -> None:
    """Raise UnsupportedError for what this version lacks, before an object of it is made."""
    if request.dla_core is not None and request.precision not in _DLA_PRECISIONS:
        raise UnsupportedError(
            "the DLA does not compute in {}".format(request.precision), "compile for fp16 or int8"
        )
    if request.hardware_compatible and not features.hardware_levels:
        raise UnsupportedError(
            "{} builds no plan that other kinds of GPU load".format(features.title),
            "leave hardware_compatible out; TensorRT-RTX takes several compute capabilities instead",
        )
    if request.version_compatible and not features.version_compatible:
        raise UnsupportedError(
            "{} builds no plan that other versions load".format(features.title),
            "leave version_compatible out, or build with TensorRT 8.6 or newer",
        )
    if request.compute_capabilities:
        _members(trt, features, request.compute_capabilities)


def configure(trt: Any, config: Any, request: BuildRequest, flags: Sequence[str], workspace: int) -> None:
    """Set everything that asks nothing of builder or network."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if request.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if request.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def keep_float(trt: Any, network: Any, config: Any) -> None:
    """Hold layers that the lowering marked to float32, where flags would let them be rounded."""
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    kept = [layer for layer in layers if KEEP_FLOAT in layer.name]
    for layer in kept:
        layer.precision = trt.DataType.FLOAT
        for place in range(layer.num_outputs):
            layer.set_output_type(place, trt.DataType.FLOAT)
    if kept:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def use_dla(trt: Any, builder: Any, config: Any, core: Optional[int]) -> None:
    """Put what the DLA takes on core number `core`, the rest on the GPU.

    Raises:
        UsageError: there is no such core.
    """
    if core is None:
        return
    if not 0 <= core < builder.num_DLA_cores:
        raise UsageError(
            "there is no DLA core {}: this device has {}".format(core, builder.num_DLA_cores or "none"),
            "leave the DLA out" if not builder.num_DLA_cores else "the first core is 0",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def use_capabilities(trt: Any, features: Features, config: Any, wanted: Sequence[str]) -> None:
    """Build for GPUs that are not here, by compute capability (`8.6`); TensorRT-RTX only.

    Raises:
        UnsupportedError: this builder cannot, or does not take one of them.
    """
    if not wanted:
        return
    members = _members(trt, features, wanted)
    config.num_compute_capabilities = len(members)
    for place, (name, member) in enumerate(members):
        if not config.set_compute_capability(member, place):
            raise UnsupportedError(
                "{} refused the compute capability {}".format(features.title, name), "leave it out"
            )


def _members(trt: Any, features: Features, wanted: Sequence[str]) -> List[Tuple[str, Any]]:
    if not features.ahead_of_time:
        raise UnsupportedError(
            "{} builds for the GPU that is here, not for a compute capability".format(features.title),
            "leave the compute capabilities out, or compile for tensorrt-rtx",
        )
    taken = compute_capabilities(trt)
    for one in wanted:
        if one not in taken:
            raise UnsupportedError(
                "{} does not build for compute capability {}".format(features.title, one),
                "it takes {}; Jetson (8.7, 11.0) is not among them: compile for tensorrt there".format(
                    ", ".join(taken)
                ),
            )
    return [
        (one, getattr(trt.ComputeCapability, "SM" + one.replace(".", ""))) for one in dict.fromkeys(wanted)
    ]
