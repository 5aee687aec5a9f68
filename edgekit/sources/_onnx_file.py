"""An ONNX file that nobody vouches for: every claim is held against the bytes before it is believed."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from edgekit.runtime.errors import BadFileError, UnsupportedError
from edgekit.sources._onnx_operators import refuse_operators
from edgekit.sources._onnx_tensors import (
    EXPORT_AGAIN,
    refuse_cut_short,
    refuse_not_finite,
    refuse_sparse,
    size_of,
)
from edgekit.sources._onnx_walk import every_graph, every_tensor, real_inputs, texts

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 1
_LFS = b"version https://git-lfs"


def read_model(path: Path) -> onnx.ModelProto:
    """The model in `path`, its external data inside.

    External data is read only from within the file's folder; nothing is unpickled or executed.

    Raises:
        BadFileError: the file is missing, empty, over 2 GB, no ONNX model or cut short; a tensor does not
            fill its shape, points outside the folder or holds NaN; a layer's weight is infinite.
        UnsupportedError: more than 2 GB with its external data, an opset older than 11, an operator that
            is neither ONNX's own nor one of ONNX Runtime's integer ones.
    """
    return read_with_digest(path)[0]


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph without its external data: enough to see what it is fed.

    Raises:
        BadFileError: the file is missing, empty, over 2 GB, no ONNX model or cut short.
        UnsupportedError: it has no inputs.
    """
    return _parsed(path, _content(path))


def read_with_digest(path: Path) -> tuple[onnx.ModelProto, str]:
    """`read_model`, and the SHA-256 of the file followed by its data files in the order of their names."""
    content = _content(path)
    model = _parsed(path, content)
    digest = hashlib.sha256(content)
    refuse_operators(path, model)
    refuse_sparse(path, model)
    _refuse_twice(path, model)
    refuse_cut_short(path, model)
    for file in _load_external(path, model):
        digest.update(file.read_bytes())
    refuse_not_finite(path, model)
    return model, digest.hexdigest()


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise BadFileError(f"{path}: there is no such file", "give the path of an ONNX file")
    size = path.stat().st_size
    if size == 0:
        raise BadFileError(f"{path} is empty", EXPORT_AGAIN)
    if size > LARGEST:
        raise BadFileError(
            f"{path} is {size / 2**30:.1f} GB, and no file of this kind can be larger than 2 GB",
            "save its weights beside it: onnx.save(model, path, save_as_external_data=True)",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error}", "look at its permissions") from error


def _refuse_larger(path: Path, size: int) -> None:
    if size > LARGEST:
        raise UnsupportedError(
            f"{path} holds {size / 2**30:.1f} GB of weights, and one graph holds 2 GB at most",
            "export it in float16, or cut it into two networks",
        )


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if content.startswith(_LFS):
        raise BadFileError(f"{path} is a pointer of Git LFS, not the file itself", "run `git lfs pull`")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BadFileError(f"{path} is no ONNX model, or is cut short: {error}", EXPORT_AGAIN) from error
    _refuse_broken_text(path, model)
    if not (model.ir_version and model.opset_import and model.graph.node and model.graph.output):
        raise BadFileError(f"{path} is no ONNX model, or is cut short: it has no whole graph", EXPORT_AGAIN)
    if not real_inputs(model.graph):
        raise UnsupportedError(f"{path} has no inputs: it is a constant", "export it with its inputs")
    return model


def _refuse_broken_text(path: Path, model: onnx.ModelProto) -> None:
    try:
        for _ in texts(model):
            pass
    except UnicodeDecodeError as error:
        raise BadFileError(f"{path} is no ONNX model: a text in it is not UTF-8", EXPORT_AGAIN) from error


def _refuse_twice(path: Path, model: onnx.ModelProto) -> None:
    """Which of two weights or outputs of one name is meant, each engine decides for itself."""
    for graph in every_graph(model):
        for kind, holders in (("weight", graph.initializer), ("output", graph.output)):
            seen: set[str] = set()
            for one in holders:
                if one.name in seen:
                    raise BadFileError(f"{path}: the {kind} '{one.name}' stands twice", EXPORT_AGAIN)
                seen.add(one.name)


def _load_external(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Puts external data into the tensors, after every claim was checked; the files read, sorted."""
    from onnx import TensorProto

    outside = [
        (label, tensor)
        for label, tensor in every_tensor(model)
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    files = [_inside(path, label, _entries(tensor).get("location", "")) for label, tensor in outside]
    sizes = [size_of(path, label, tensor) for label, tensor in outside]
    _refuse_larger(path, path.stat().st_size + sum(sizes))
    spans = [
        _span(path, label, tensor, file, size)
        for (label, tensor), file, size in zip(outside, files, sizes, strict=True)
    ]
    for (_, tensor), file, (offset, size) in zip(outside, files, spans, strict=True):
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(size)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return sorted(set(files))


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _inside(path: Path, label: str, location: str) -> Path:
    """The data file of a tensor, links followed: it lies in the model's folder, or is refused."""
    words = PurePosixPath(location), PureWindowsPath(location)
    rooted = any(word.is_absolute() or word.drive or word.root for word in words)
    climbs = any(".." in word.parts for word in words)
    root = path.resolve().parent
    if "\0" in location or not location.strip():
        raise BadFileError(f"{path}: '{label}' names no data file", EXPORT_AGAIN)
    file = (root / location).resolve()
    if rooted or climbs or root not in file.parents:
        raise BadFileError(
            f"{path}: '{label}' points outside the file's folder: {location!r}",
            "put the data file itself beside the ONNX file, and export or save it so",
        )
    if not _is_there(file):
        raise BadFileError(f"{path}: the data file {location[:80]!r} of '{label}' is missing", "copy it too")
    return file


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that no file can have
        return False


def _span(path: Path, label: str, tensor: onnx.TensorProto, file: Path, size: int) -> tuple[int, int]:
    """Offset and length of a tensor's bytes, both within the data file."""
    entries = _entries(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise BadFileError(f"{path}: '{label}' has a broken place: {error}", EXPORT_AGAIN) from error
    if length != size:
        raise BadFileError(
            f"{path}: '{label}' of shape {tuple(tensor.dims)} needs {size} bytes, the file claims {length}",
            EXPORT_AGAIN,
        )
    if offset < 0 or offset + length > file.stat().st_size:
        raise BadFileError(
            f"{path}: '{label}' ends at byte {offset + length} of {file.name}, which has "
            f"{file.stat().st_size}: it is cut short",
            "copy the data file again",
        )
    return offset, length
