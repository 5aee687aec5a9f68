"""edgekit: from a trained network to a proved engine on the device.

Everything public is imported when it is first used, so that `import edgekit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.api import Compiled, compile
    from edgekit.pipeline import bench, check, load, sweep
    from edgekit.runtime.session import open_bundle

__version__ = "0.1.0"
__all__ = ["Compiled", "__version__", "bench", "check", "compile", "load", "open_bundle", "sweep"]

_HOMES = {
    "Compiled": "edgekit.api",
    "bench": "edgekit.pipeline",
    "check": "edgekit.pipeline",
    "compile": "edgekit.api",
    "load": "edgekit.pipeline",
    "open_bundle": "edgekit.runtime.session",
    "sweep": "edgekit.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
