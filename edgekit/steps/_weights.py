"""Weights to and from files: safetensors, or PyTorch's own format read without running a pickle."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from edgekit.runtime.errors import BadFileError, SystemRefusedError

if TYPE_CHECKING:
    import torch

PICKLE_MARKS = (b"PK\x03\x04", b"\x80")
NAMED = 4
COUNTER = ".num_batches_tracked"
"""A number that only training looks at; files made before PyTorch 0.4.1 do not have it."""


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Put the weights of a file into a module.

    The batches that a batch norm has counted may be missing. A module with `current_key` says what it
    calls a tensor that older files call otherwise.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` with a state dict (or a dict with `state_dict` in it).

    Raises:
        BadFileError: missing, truncated, a pickle that holds more than tensors, of another
            architecture, or with values that are not finite.
    """
    current = getattr(module, "current_key", str)
    tensors = {current(name): tensor for name, tensor in read_tensors(path).items()}
    _check_kind(tensors, path)
    _check_architecture(module.state_dict(), tensors, path)
    _check_finite(tensors, path)
    module.load_state_dict(tensors, strict=False)


def _check_kind(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    import torch

    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise BadFileError(
                f"{path}: {name} is sparse, complex or quantized", "save a plain state dict of real numbers"
            )


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, whole or not at all.

    Raises:
        SystemRefusedError: the file cannot be written.
    """
    save_tensors(module.state_dict(), path)


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, floating ones in float32, under a temporary name first."""
    import safetensors.torch

    packed = safetensors.torch.save(
        {name: _stored(tensor) for name, tensor in tensors.items()}, dict(notes or {})
    )
    write_whole(path, packed)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it.

    Raises:
        SystemRefusedError: disk full, no permission.
    """
    fresh = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as cause:
        raise SystemRefusedError(
            f"{path} cannot be written: {cause.strerror or cause}", "free some space or choose another folder"
        ) from cause
    finally:
        with suppress(OSError):
            fresh.unlink()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; the file must hold nothing else."""
    if not path.is_file():
        raise BadFileError(f"{path}: no such weights file", "check the path")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    tensor = tensor.detach().cpu().to(torch.float32) if tensor.is_floating_point() else tensor.detach().cpu()
    return tensor.contiguous()


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch

    content = path.read_bytes()
    try:
        return dict(safetensors.torch.load(content))
    except safetensors.SafetensorError as cause:
        if content.startswith(PICKLE_MARKS):
            raise BadFileError(
                f"{path}: a pickle, not safetensors", "name it .pt, or save it as safetensors"
            ) from cause
        raise BadFileError(
            f"{path}: truncated, or not a safetensors file ({cause})", "copy or train the weights again"
        ) from cause


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise BadFileError(
            f"{path}: refused, the pickle holds more than tensors",
            "save the state dict alone, best as safetensors",
        ) from cause
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as cause:
        raise BadFileError(
            f"{path}: truncated, or not a PyTorch file", "copy or save the weights again"
        ) from cause
    return _state_dict(found, path)


def _state_dict(found: object, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for name in ("state_dict", "model_state_dict"):  # as Lightning and PyTorch's tutorials save it
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadFileError(f"{path}: holds no state dict", "save module.state_dict()")
    return {str(name): tensor for name, tensor in found.items()}


def _check_architecture(
    wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path
) -> None:
    faults = [
        _listed("missing", [name for name in wanted if name not in found and not name.endswith(COUNTER)]),
        _listed("unexpected", sorted(name for name in found if name not in wanted)),
        _listed(
            "of another shape",
            [
                f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in found and found[name].shape != tensor.shape
            ],
        ),
    ]
    if any(faults):
        told = "; ".join(fault for fault in faults if fault)
        raise BadFileError(
            f"{path}: weights of another architecture: {told}",
            "use the recipe and options they were trained with",
        )


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}: {', '.join(names[:NAMED])}{rest}"


def _check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise BadFileError(
            f"{path}: weights with NaN or infinite values: {_listed('in', bad)}",
            "the training diverged; train again",
        )
