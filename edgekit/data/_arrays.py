"""A user's own data: arrays in files, or images in a folder.

x.npz      one array per input, the first axis is the samples; `target` holds what should come out
x.npy      the same for a network with one input
folder     of `.npz` files, each one feed as the engine takes it; sizes may vary from file to file
folder     of images: see `_images.py`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data._array_checks import batch_axis, converted
from edgekit.data._array_content import Content, Reader, guessed, parted
from edgekit.data._array_files import read_npz
from edgekit.data._folder import LABEL_FILE, SUFFIXES, read_listed
from edgekit.data._images import ImageDataset, load_images, valued
from edgekit.declare import told_input
from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Preprocess, State, TensorSpec, with_states
from edgekit.spec import Dataset, Sample

__all__ = ["ArrayDataset", "ImageDataset", "batch_axis", "load_arrays", "load_images", "load_own", "too_few"]

FEW = 16
LISTS = ("targets.tsv", "labels.tsv")
KINDS = "give an .npz, an .npy, a folder of .npz files or a folder of images"


class ArrayDataset:
    """Samples out of array files; the file that was read last is kept.

    `Sample.inputs` follow the network's inputs, without the batch axis, in the inputs' types;
    `Sample.target` is a Python number or text, an array, or None; `Sample.states` are the hidden states
    that the file gives. `names` are the arrays' own names in that order, `described` is a sentence for
    the report, `extremes` are samples that have the smallest and the largest size along every axis.
    """

    def __init__(self, place: Path, files: Sequence[Path], reader: Reader) -> None:
        self._files, self._reader = files, reader
        self._last: tuple[Path, Content] | None = None
        seen = _Seen(place)
        for path in files:
            seen.add(path, self._content(path))
        self._starts = np.cumsum([0, *seen.counts])
        self.names = seen.first.sources
        self.labelled = seen.labelled
        self.described = seen.sentence()
        self.extremes = tuple(int(self._starts[file]) for file in seen.extremes())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Sample:
        content, place = self._find(index)
        target = None if content.targets is None else _plain(content.targets[place])
        states = {column.spec.name: column.at(place) for column in content.states}
        return Sample(tuple(column.at(place) for column in content.inputs), target, states)

    def set_epoch(self, epoch: int, /) -> None:
        """Nothing is augmented."""

    def _find(self, index: int) -> tuple[Content, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._content(self._files[number]), index - int(self._starts[number])

    def _content(self, path: Path) -> Content:
        if self._last is None or self._last[0] != path:
            self._last = None
            self._last = (path, self._reader.read(path))
        return self._last[1]


class _Seen:
    """What all files hold together."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.counts: list[int] = []
        self.labelled = False
        self._sizes: dict[str, list[tuple[int, ...]]] = {}
        self._notes: dict[str, None] = {}

    def add(self, path: Path, content: Content) -> None:
        labelled = content.targets is not None
        if not self.counts:
            self.first, self.labelled = content, labelled
        if labelled != self.labelled:
            lacks = "targets, and the files before it have none" if labelled else "no target"
            raise BadFileError(f"{path} has {lacks}", "give every file a target, or none")
        self.counts.append(content.count)
        for column in content.inputs:
            self._sizes.setdefault(column.spec.name, []).append(column.sizes)
        self._notes.update(dict.fromkeys(_notes(content)))

    def extremes(self) -> list[int]:
        """Files with the smallest and the largest size along each axis of each array."""
        found: dict[int, None] = {}
        for sizes in self._sizes.values():
            for axis in zip(*sizes, strict=True):
                found.update(dict.fromkeys((axis.index(min(axis)), axis.index(max(axis)))))
        return list(found)

    def sentence(self) -> str:
        total = sum(self.counts)
        specs = (column.spec for column in self.first.inputs)
        arrays = [f"{spec.name} {spec.dtype}[{_extent(self._sizes[spec.name])}]" for spec in specs]
        samples = f"{total} sample{'s' if total != 1 else ''} of {', '.join(arrays)}"
        labels = "with targets" if self.labelled else "without targets"
        return "; ".join([f"{samples} from {self._place}, {labels}", *self._notes])


def _extent(sizes: Sequence[tuple[int, ...]]) -> str:
    """Each dimension as a size, or as smallest..largest."""
    ends = [(min(dim), max(dim)) for dim in zip(*sizes, strict=True)]
    return ",".join(str(low) if low == high else f"{low}..{high}" for low, high in ends)


def _notes(content: Content) -> Iterator[str]:
    for source, column in zip(content.sources, content.inputs, strict=True):
        if source != column.spec.name:
            yield f"by order, {source!r} is the input {column.spec.name!r}"
    columns = (*content.inputs, *content.states)
    for name, dtype in converted(columns).items():
        wanted = next(column.spec.dtype for column in columns if column.spec.name == name)
        yield f"{dtype} becomes {wanted} in {name!r}"
    for column in content.states:
        yield f"the state {column.spec.name!r} is given"


def _plain(target: Any) -> Any:
    """A number or text of NumPy's as one of Python's; an array as it is."""
    if isinstance(target, (np.generic, np.ndarray)) and target.ndim == 0:
        return target.item()
    return target


def load_arrays(place: Path, inputs: Sequence[TensorSpec] = (), states: Sequence[State] = ()) -> ArrayDataset:
    """The samples of an `.npz`, an `.npy`, or a folder of `.npz` feeds, all of them checked.

    Without `inputs` every array is one, its first axis the samples (in a feed: the batch). States
    may be absent: they then start at their initial value.

    Raises:
        BadFileError: nothing is there, a file is unreadable or of Python objects, or an array does
            not fit its input; names file, array and sample.
    """
    hidden = with_states(inputs, (), states)[0][len(inputs) :]
    if not place.is_dir():
        if place.exists() and place.suffix.lower() not in (".npz", ".npy"):
            raise BadFileError(f"{place} is neither an .npz nor an .npy", KINDS)
        return ArrayDataset(place, [place], Reader(inputs=tuple(inputs), states=hidden, feeds=False))
    files = _feeds(place)
    if not files:
        raise BadFileError(f"the data folder {place} holds no .npz files", KINDS)
    specs = tuple(inputs) or _guessed_from(files[0], [spec.name for spec in hidden])
    return ArrayDataset(place, files, Reader(inputs=specs, states=hidden, feeds=True, listed=_listed(place)))


def _feeds(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*.npz") if not path.name.startswith("."))


def _guessed_from(path: Path, states: Sequence[str]) -> tuple[TensorSpec, ...]:
    """The inputs of the first file, which all others must then have."""
    found, _ = parted(read_npz(path), states, path)
    return guessed({name: array for name, array in found.items() if name not in states})


def _listed(place: Path) -> dict[Path, Any] | None:
    """The targets that a list beside the files gives; None without a list."""
    listed = next((place / name for name in LISTS if (place / name).is_file()), None)
    if listed is None:
        return None
    try:
        found = read_listed(listed, "file")
    except OSError as error:
        raise BadFileError(f"{listed} cannot be read: {error.strerror}") from error
    targets = valued([label for _, label, _ in found])
    return dict(zip((path for path, _, _ in found), targets, strict=True))


def load_own(
    place: Path,
    inputs: Sequence[TensorSpec] = (),
    states: Sequence[State] = (),
    preprocess: Preprocess | None = None,
) -> ArrayDataset | ImageDataset:
    """A user's own data, whichever it is; where a folder holds `.npz` files, those are it.

    Raises:
        BadFileError: it is neither arrays nor images, or something in it is wrong.
        UsageError: it is images, and nobody said how an image becomes the input.
    """
    if not place.is_dir() or _feeds(place):
        return load_arrays(place, inputs, states)
    if not _holds_images(place):
        raise BadFileError(f"the data folder {place} holds neither .npz files nor images", KINDS)
    if preprocess is None:
        raise UsageError(
            f"{place} holds images, and nothing says how an image becomes the input",
            "add --preprocess size=HEIGHTxWIDTH,mean=...,std=..., or give arrays as .npz files",
        )
    _refuse_images(place, inputs, preprocess)
    return load_images(place, preprocess)


def _holds_images(place: Path) -> bool:
    files = (path for pattern in ("*", "*/*") for path in place.glob(pattern))
    return any(path.suffix.lower() in SUFFIXES or path == place / LABEL_FILE for path in files)


def _refuse_images(place: Path, inputs: Sequence[TensorSpec], preprocess: Preprocess) -> None:
    """Images fill one input of type float32 and shape (batch, channels, height, width)."""
    if not inputs:
        return
    spec = inputs[0]
    if len(inputs) > 1:
        others = ", ".join(other.name for other in inputs[1:])
        raise BadFileError(
            f"{place} holds images, which fill one input, and the network also takes {others}",
            "give a folder of .npz files, one feed each",
        )
    made = (preprocess.channels, preprocess.height, preprocess.width or "width")
    if spec.dtype != "float32" or len(spec.shape) != 4 or not all(map(_meets, spec.shape[1:], made)):
        image = f"float32[1,{','.join(map(str, made))}]"
        raise BadFileError(
            f"{place} holds images, --preprocess makes {image} of each, and the input is {told_input(spec)}",
            "change --preprocess, or give arrays",
        )


def _meets(dim: int | str, size: int | str) -> bool:
    return isinstance(dim, str) or isinstance(size, str) or dim == size


def too_few(dataset: Dataset) -> str:
    """Why calibration on these samples would be poor; empty when nothing is known against it."""
    count = len(dataset)
    if count > 1 and _all_equal(dataset):
        return f"all {count} calibration samples are equal: int8 scales will not fit real inputs"
    if _all_constant(dataset):
        return "every calibration sample is one constant: int8 scales will not fit real inputs"
    if count < FEW:
        return (
            f"only {count} calibration sample{'s' if count != 1 else ''}: int8 scales need {FEW}, better 100"
        )
    return ""


def _all_equal(dataset: Dataset) -> bool:
    first = dataset[0].inputs
    return all(all(map(np.array_equal, first, dataset[index].inputs)) for index in range(1, len(dataset)))


def _all_constant(dataset: Dataset) -> bool:
    return all(
        all(array.min() == array.max() for array in arrays) and any(array.size > 1 for array in arrays)
        for arrays in (dataset[index].inputs for index in range(len(dataset)))
    )
