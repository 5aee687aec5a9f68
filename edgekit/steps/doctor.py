"""What this machine can do, and what is missing for the rest; what is known of a board."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekit import boards, cache, registry
from edgekit.runtime.engines import usable_cores
from edgekit.runtime.probe import probe_gpus
from edgekit.spec import PRECISIONS
from edgekit.steps import _integers
from edgekit.steps.describe import cpu_name

JETSON_INSTALL = (
    "sudo apt install nvidia-jetpack, then python3 -m venv --system-site-packages with the system's python3; "
    "never pip install tensorrt"
)
PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
}


Row = tuple[str, str, str]


def findings() -> list[dict[str, Any]]:
    """One row a finding: what, what was found, and what to do about it."""
    return _rows(_walk())


def board_findings(name: str) -> list[dict[str, Any]]:
    """The same of a board that need not be here: what its profile says, read and not verified.

    Raises:
        UsageError: there is no such board; the hint is the nearest name.
    """
    return _rows(_board(boards.read(name)))


def _rows(walk: Iterator[Row]) -> list[dict[str, Any]]:
    return [{"what": what, "found": found, "advice": advice} for what, found, advice in walk]


def _board(board: boards.Board) -> Iterator[Row]:
    yield "board", board.title, "" if board.supported else f"not supported: {board.reason}"
    if board.compute_capability:
        yield "compute capability", board.compute_capability, ""
    yield "targets", ", ".join(board.targets) or "none", ""
    if board.device:
        yield "openvino device", board.device, f"--target openvino --device {board.device}"
    yield "memory", _memory(board), _workspace(board)
    slow = [precision for precision in PRECISIONS if precision not in board.precisions]
    yield "precisions", ", ".join(board.precisions), f"not here: {', '.join(slow)}" if slow else ""
    yield from _dla(board)
    yield from _software(board)
    for sentence in board.avoid:
        what, why = sentence.split(": ", 1)
        yield "avoid", what, why
    yield from (("unconfirmed", sentence, "") for sentence in board.unconfirmed)
    yield "evidence", "read, not verified here", "; ".join(board.sources)


def _memory(board: boards.Board) -> str:
    owners = "CPU and GPU" if board.kind == "jetson" else "the computer"
    sizes = " or ".join(str(size >> 10) for size in board.memory_mb)
    if not sizes:
        return f"shared with {owners}" if board.memory_shared else "depends on the card"
    return f"{sizes} GB" + (f", shared by {owners}" if board.memory_shared else "")


def _workspace(board: boards.Board) -> str:
    if "tensorrt" not in board.targets:
        return ""
    return f"the TensorRT builder gets {boards.workspace_mb(board)} MB of it with --board"


def _dla(board: boards.Board) -> Iterator[Row]:
    if board.kind != "jetson":
        return
    cores = " or ".join(dict.fromkeys(map(str, board.dla_cores)))
    if not any(board.dla_cores):
        yield "dla", "none", ""
    else:
        yield "dla", f"{cores} cores", "computes fp16 and int8; what it does not take falls back to the GPU"


def _software(board: boards.Board) -> Iterator[Row]:
    """JetPack -> TensorRT -> CUDA for a Jetson, the TensorRT versions for another GPU."""
    if board.kind == "gpu":
        yield "tensorrt", ", ".join(boards.versions(board)), registry.install_command("tensorrt")
    if board.kind != "jetson":
        return
    known = boards.releases()
    for version in board.software:
        yield f"jetpack {version}", _release(known[version]), known[version].note
    if board.supported:
        yield "installing", "tensorrt comes with JetPack", JETSON_INSTALL


def _release(release: boards.Release) -> str:
    parts = {"tensorrt": release.tensorrt, "cuda": release.cuda, "jetson linux": release.l4t}
    parts["python"] = release.python
    return ", ".join(f"{what} {version}" for what, version in parts.items() if version)


def _walk() -> Iterator[tuple[str, str, str]]:
    yield "processor", f"{cpu_name()}, {usable_cores()} cores usable", ""
    yield "int8 products", *_products()
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


def _products() -> tuple[str, str]:
    found = _integers.dot_products()
    if found is None:
        return "unknown", ""
    advice = _integers.ADVICE if _integers.saturates() else ""
    return ", ".join(found) or "in 16 bits: no VNNI", advice


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
