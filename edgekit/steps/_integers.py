"""How this processor multiplies bytes: with VNNI, or in 16 bits that overflow."""

from __future__ import annotations

import platform
from pathlib import Path

from edgekit.spec import Recipe

CPUINFO = Path("/proc/cpuinfo")
DOT_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
"""Instructions that add products of bytes in 32 bits, by the kernel's names; the last two are ARM's."""
ADVICE = "int8 may saturate here: --set quantization.options.reduce_range=true"
_TARGETS = ("onnxruntime", "openvino")


def dot_products() -> tuple[str, ...] | None:
    """Those of `DOT_PRODUCTS` that this processor has; None where the kernel does not say."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), None)
    return None if flags is None else tuple(one for one in DOT_PRODUCTS if one in flags)


def saturates() -> bool:
    """Whether unsigned activations overflow with weights of eight bits on this processor."""
    return platform.machine() in ("x86_64", "AMD64", "i686") and dot_products() == ()


def warnings(recipe: Recipe) -> tuple[str, ...]:
    """What an int8 engine for this processor is to be told of; nothing for another device or board."""
    here = recipe.target.name in _TARGETS and recipe.device in ("", "CPU") and not recipe.board
    if not here or not saturates() or recipe.quantization.options.get("reduce_range"):
        return ()
    return (f"this processor has no VNNI: {ADVICE} gives weights seven bits, which cannot overflow",)
