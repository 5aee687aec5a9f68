"""What this machine can do, and what is missing for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekit import cache, registry
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.probe import probe_gpus
from edgekit.steps.describe import cpu_name

PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
}


def findings() -> list[dict[str, Any]]:
    """One row a finding: what, what was found, and what to do about it."""
    return [{"what": what, "found": found, "advice": advice} for what, found, advice in _walk()]


def _walk() -> Iterator[tuple[str, str, str]]:
    yield "processor", f"{cpu_name()}, {usable_cores()} cores usable", ""
    yield "cache", *_cache()
    for package, distribution in PACKAGES.items():
        if registry.available(package):
            yield package, cache.installed(distribution) or "installed", ""
        else:
            yield package, "not installed", _advice(package)
    yield "openvino devices", *_openvino()
    gpus = probe_gpus()
    named = ", ".join(
        f"{gpu.name} (compute capability {'.'.join(map(str, gpu.compute_capability))})"
        for gpu in gpus.devices
    )
    hint = "" if gpus.devices else "--target tensorrt writes a build kit here; the device builds the engine"
    yield "nvidia gpu", named or gpus.reason, hint


def _advice(package: str) -> str:
    if package == "tensorrt":
        return f"{registry.install_command(package)}; on a Jetson it comes with JetPack"
    return registry.install_command(package)


def _cache() -> tuple[str, str]:
    folder = cache.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        return f"{folder}: {error.strerror}", "set EDGEKIT_CACHE to a folder that can be written"
    return f"{folder}, {size / 1e6:.1f} MB", ""


def _openvino() -> tuple[str, str]:
    if not registry.available("openvino"):
        return "unknown", registry.install_command("openvino")
    import openvino

    core = openvino.Core()
    told = [
        f"{device} ({' '.join(core.get_property(device, 'OPTIMIZATION_CAPABILITIES'))})"
        for device in core.available_devices
    ]
    return ", ".join(told) or "none", ""
