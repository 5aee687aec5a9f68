"""Which of the names that come and go between TensorRT 8.5, 10, 11 and TensorRT-RTX a module has."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

from ..errors import MissingPackageError, UsageError

_PIP = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_TYPING_IS_COMPLETE = (10, 12)
"""The first TensorRT whose strong typing takes every layer. No name tells it."""

_ALWAYS = ("__version__", "Builder", "BuilderFlag", "NetworkDefinitionCreationFlag")
"""What every version has: without it there is a stub of a package, or a folder of that name."""

_TEGRA = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Features:
    """What a module can do, asked by name.

    `flavour` is `tensorrt` or `tensorrt_rtx`. `strong` networks carry every type in the graph,
    `weak` ones are told a precision by flags; between 10.12 and 11 both are possible.
    `ahead_of_time` modules build without a GPU, for compute capabilities that are named.
    """

    version: str
    flavour: str
    strong: bool
    weak: bool
    explicit_batch: bool
    progress: bool
    hardware_levels: bool
    version_compatible: bool
    ahead_of_time: bool
    timing_cache: bool

    @property
    def title(self) -> str:
        """Name and version, for a sentence."""
        return "{} {}".format(_TITLES[self.flavour], self.version)

    def at_least(self, version: str) -> bool:
        """Whether this is TensorRT `version` or newer; TensorRT-RTX counts apart and reads what 11 does."""
        return self.ahead_of_time or numbers(self.version) >= numbers(version)


def features_of(trt: Any) -> Features:
    """Ask `trt`, the Python module of TensorRT or TensorRT-RTX. Makes no object of it.

    Raises:
        MissingPackageError: it is a stub, or only a part of one of them.
    """
    _refuse_part(trt)
    version = str(trt.__version__)
    ahead = hasattr(trt, "ComputeCapability")
    weak = hasattr(trt.BuilderFlag, "FP16")
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return Features(
        version=version,
        flavour="tensorrt_rtx" if ahead else "tensorrt",
        strong=typed and (not weak or numbers(version) >= _TYPING_IS_COMPLETE),
        weak=weak,
        explicit_batch=hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
        progress=hasattr(trt, "IProgressMonitor"),
        # TensorRT-RTX has both names and says at run time that they do nothing.
        hardware_levels=hasattr(trt, "HardwareCompatibilityLevel") and not ahead,
        version_compatible=hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"),
        ahead_of_time=ahead,
        timing_cache=not ahead,
    )


def _refuse_part(trt: Any) -> None:
    absent = [name for name in _ALWAYS if not hasattr(trt, name)]
    if not absent:
        return
    name = str(getattr(trt, "__name__", "tensorrt"))
    flavour = name if name in _PIP else "tensorrt"
    raise MissingPackageError(
        "the Python package {} is not a whole {}: it has no {}".format(
            name, _TITLES[flavour], ", ".join(absent)
        ),
        how_to_install(flavour),
    )


def compute_capabilities(trt: Any) -> Tuple[str, ...]:
    """Those that the module builds for without a GPU, such as `8.6`, in order; none for TensorRT."""
    names = dir(trt.ComputeCapability) if hasattr(trt, "ComputeCapability") else []
    found = [re.match(r"SM(\d+)(\d)$", name) for name in names]
    pairs = sorted((int(match.group(1)), int(match.group(2))) for match in found if match)
    return tuple("{}.{}".format(major, minor) for major, minor in pairs)


def numbers(version: str) -> Tuple[int, ...]:
    """The numbers that a version begins with: `10.13.3.9` is (10, 13, 3, 9)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def load(flavour: str) -> Any:
    """Import the Python module `tensorrt` or `tensorrt_rtx`. Importing touches no GPU.

    Raises:
        MissingPackageError: it is not installed, or its libraries do not load.
        UsageError: there is no such module.
    """
    if flavour not in _PIP:
        raise UsageError("{} builds no plans".format(flavour), "the builders are: " + ", ".join(sorted(_PIP)))
    try:
        return importlib.import_module(flavour)
    except Exception as cause:  # a broken package raises whatever it likes
        raise MissingPackageError(
            "the Python package {} cannot be imported ({}: {})".format(
                flavour, type(cause).__name__, " ".join(str(cause).split())
            ),
            how_to_install(flavour),
        ) from cause


def how_to_install(flavour: str) -> str:
    """The way that fits this machine: on a Jetson, JetPack brings TensorRT and pip cannot."""
    if not _TEGRA.exists():
        return "pip install {}; on a workstation: pip install 'edgekit-deploy[{}]'".format(
            _PIP[flavour], flavour.replace("_", "-")
        )
    if flavour == "tensorrt_rtx":
        return "TensorRT-RTX does not run on Jetson: compile for tensorrt instead"
    return (
        "TensorRT comes with JetPack, not with pip: sudo apt install python3-libnvinfer, "
        "then run this in the system's Python or in python3 -m venv --system-site-packages"
    )
