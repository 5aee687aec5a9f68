"""The plain data that travels in a bundle: tensors, states, preprocessing, words, labels."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .errors import BadFileError

SCHEMA = 1
FILE_NAME = "manifest.json"
STATES = ("proved", "built", "deferred")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of one input or output.

    A `str` in `shape` is a dynamic dimension by name (`"batch"`, `"time"`, `"width"`);
    `ranges` gives the smallest and the largest value of each, both included.
    """

    name: str
    shape: Tuple[Union[int, str], ...]
    dtype: str = "float32"
    ranges: Mapping[str, Tuple[int, int]] = field(default_factory=dict)

    @property
    def dynamic(self) -> Tuple[str, ...]:
        """Names of the dynamic dimensions, in order."""
        return tuple(dim for dim in self.shape if isinstance(dim, str))

    def at(self, sizes: Mapping[str, int]) -> Tuple[int, ...]:
        """The shape with every dynamic dimension replaced from `sizes`."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)


@dataclass(frozen=True)
class State:
    """A hidden state: the output `output` of one call is the input `input` of the next.

    `init` is the value every element has before the first call.
    """

    input: str
    output: str
    shape: Tuple[Union[int, str], ...]
    init: float = 0.0


def with_states(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], states: Sequence[State]
) -> Tuple[Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """All inputs and all outputs of a network: the hidden states come last."""
    ranges = {dim: bounds for spec in inputs for dim, bounds in spec.ranges.items()}

    def tensor(name: str, state: State) -> TensorSpec:
        dims = [dim for dim in state.shape if isinstance(dim, str) and dim in ranges]
        return TensorSpec(name, state.shape, "float32", {dim: ranges[dim] for dim in dims})

    return (
        tuple(inputs) + tuple(tensor(state.input, state) for state in states),
        tuple(outputs) + tuple(tensor(state.output, state) for state in states),
    )


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input, shape (1, channels, height, width), float32.

    `width` 0 keeps the aspect ratio at the given height, then pads the right edge to a multiple
    of `width_multiple` by repeating the last column. `fit` is `stretch` or `letterbox` (the image
    is centred on `fill`). Values are scaled to 0..1, then `(x - mean) / std` per channel.
    """

    height: int
    width: int = 0
    channels: int = 1
    width_multiple: int = 1
    width_range: Tuple[int, int] = (1, 4096)
    fit: str = "stretch"
    fill: int = 0
    order: str = "RGB"
    mean: Tuple[float, ...] = (0.0,)
    std: Tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Words:
    """How a text becomes the network's input, ids of shape (1, time), int64.

    What the regular expression `pattern` finds are the words, of the text in lower case with `lower`.
    With `stem` above 0 a longer word is followed by its first `stem` letters and a star, with `pairs`
    two neighbours also stand as one entry. `vocabulary` has one entry a line: the first has id 2. Id 1
    is a word that is not there; a stem or a pair that is not there is left out. 0 is padding.
    At most `longest` ids are taken.
    """

    vocabulary: str
    pattern: str
    lower: bool = True
    stem: int = 0
    pairs: bool = False
    longest: int = 512

    @property
    def ids(self) -> int:
        """How many ids there are, 0 and 1 among them."""
        return 2 + len(self.vocabulary.split("\n"))


@dataclass(frozen=True)
class Labels:
    """What the numbers mean: `values[i]` is class i, or character i of a CTC alphabet.

    `decoder` names a function of `runtime/decode.py`: `argmax`; `binary`, one logit for the second of
    two values; or `ctc`, whose index 0 is the blank (`values[0]` is then the empty string). `boxes`
    means that the manifest has a `Detection`.
    """

    values: Tuple[str, ...]
    decoder: str = "argmax"


BOXES = "boxes"
"""The decoder of `Labels` where a `Detection` says how the boxes are read: `runtime/detection.py`."""
BOX_FORMATS = ("xyxy", "xywh", "cxcywh", "yxyx")
BOX_LAYOUTS = ("rows", "columns", "nms")
ACTIVATIONS = ("none", "sigmoid", "softmax")


@dataclass(frozen=True)
class Detection:
    """How a detector's outputs become boxes: which outputs, what their numbers are, and what is kept.

    `boxes` and `scores` name outputs of shape (batch, N, 4) and (batch, N, classes). `scores` empty
    means that `boxes` is one combined output: four coordinates, then the scores. `objectness` names
    an output (batch, N) or (batch, N, 1) that the scores are multiplied with; the combined output
    itself means its column 4, before the scores. `layout` `columns` has the last two axes the other
    way round, (batch, 4 + classes, N); `nms` is what ONNX's NonMaxSuppression takes: boxes in rows,
    scores in columns.

    `format`: two corners (`xyxy`, `yxyx`), or a corner (`xywh`) or the centre (`cxcywh`) and the size;
    in pixels of the network's input, or with `normalized` in shares of it. `activation` is what still
    has to be done to the scores; objectness gets a sigmoid where that is not `none`.

    A box is kept when its score is above `score`, and its IoU with every better box of its class is
    at most `iou`; at most `most` an image and `most_per_class` of a class (0: no limit). Each box
    has its best class only, or with `multi_label` every class above `score`. The class
    `background` is left out (-1: there is none).

    Raises:
        ValueError: a value that cannot be; TypeError for one of the wrong type.
    """

    boxes: str
    scores: str = ""
    objectness: str = ""
    format: str = "xyxy"
    layout: str = "rows"
    normalized: bool = False
    activation: str = "none"
    score: float = 0.25
    iou: float = 0.45
    most: int = 300
    most_per_class: int = 0
    multi_label: bool = False
    background: int = -1

    def __post_init__(self) -> None:
        _refuse_other("format", self.format, BOX_FORMATS)
        _refuse_other("layout", self.layout, BOX_LAYOUTS)
        _refuse_other("activation", self.activation, ACTIVATIONS)
        if not all(isinstance(name, str) for name in (self.boxes, self.scores, self.objectness)):
            raise TypeError("boxes, scores and objectness are names of outputs")
        if not math.isfinite(self.score):
            raise ValueError("the score {} is not a number".format(self.score))
        if not 0 <= self.iou <= 1:
            raise ValueError("the iou {} is not from 0 to 1".format(self.iou))
        if min(self.most, self.most_per_class) < 0 or self.background < -1:
            raise ValueError("most and most_per_class begin at 0, and background at -1")


def _refuse_other(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError("the {} {!r} is none of {}".format(key, value, ", ".join(known)))


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of a bundle.

    `engine` is `{"kind", "file", "precision", "settings"}`: which runner opens which file, and the
    floating precision it is opened in. `limits` are those of the bundle's precision: `rel_l2`,
    `agreement`. `files` holds the SHA-256 of every other file of the folder.
    """

    model: str
    target: str
    precision: str
    device: str
    state: str
    passed: Optional[bool]
    engine: Mapping[str, Any]
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    states: Tuple[State, ...] = ()
    preprocess: Optional[Preprocess] = None
    words: Optional[Words] = None
    labels: Optional[Labels] = None
    detection: Optional[Detection] = None
    limits: Mapping[str, float] = field(default_factory=dict)
    plan: Mapping[str, str] = field(default_factory=dict)
    lowering: Tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    command: str = ""
    schema: int = SCHEMA


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.json`, keys sorted."""
    path = folder / FILE_NAME
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of a bundle; the files are not looked at, see `verify`.

    Raises:
        BadFileError: there is none, it is not what it claims, or it is of another schema.
    """
    path = folder / FILE_NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFileError(
            "{} is no bundle: it has no {}".format(folder, FILE_NAME), "give the folder that `compile` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise BadFileError("{} cannot be read: {}".format(path, error), "compile the bundle again") from error
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        found = told.get("schema") if isinstance(told, dict) else None
        raise BadFileError(
            "{} is of schema {!r}, this edgekit reads {}".format(path, found, SCHEMA), "compile it again"
        )
    try:
        return _manifest(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFileError(
            "{} is not a manifest: {}".format(path, error), "compile the bundle again"
        ) from error


def _manifest(told: Dict[str, Any]) -> Manifest:
    told = dict(told)
    told["inputs"] = _tensors(told["inputs"])
    told["outputs"] = _tensors(told["outputs"])
    told["states"] = tuple(State(**dict(item, shape=tuple(item["shape"]))) for item in told["states"])
    told["lowering"] = tuple(told["lowering"])
    if told["preprocess"] is not None:
        lists = {key: tuple(value) for key, value in told["preprocess"].items() if isinstance(value, list)}
        told["preprocess"] = Preprocess(**dict(told["preprocess"], **lists))
    if told.get("words") is not None:
        told["words"] = Words(**told["words"])
    if told["labels"] is not None:
        told["labels"] = Labels(**dict(told["labels"], values=tuple(told["labels"]["values"])))
    if told.get("detection") is not None:
        told["detection"] = Detection(**told["detection"])
    manifest = Manifest(**told)
    _refuse_nonsense(manifest)
    return manifest


def _refuse_nonsense(manifest: Manifest) -> None:
    """Raise ValueError for what has the right keys and cannot be a bundle."""
    engine = manifest.engine
    if manifest.state not in STATES:
        raise ValueError("there is no state {!r}".format(manifest.state))
    if not (manifest.inputs and manifest.outputs):
        raise ValueError("it has no inputs or no outputs")
    if not (isinstance(manifest.files, dict) and isinstance(manifest.limits, dict)):
        raise ValueError("its files or limits are not a table")
    if not isinstance(engine, dict) or not isinstance(engine.get("kind"), str):
        raise ValueError("it does not say which engine it has")
    if manifest.state != "deferred" and engine.get("file") not in manifest.files:
        raise ValueError("its engine {!r} is not one of its files".format(engine.get("file")))
    preprocess = manifest.preprocess
    if preprocess is not None and (
        min(preprocess.height, preprocess.channels, preprocess.width_multiple) < 1
    ):
        raise ValueError("its preprocessing makes an image of no size")
    words = manifest.words
    if words is not None and (words.longest < 1 or words.stem < 0 or not isinstance(words.vocabulary, str)):
        raise ValueError("its words are none")


def _tensors(items: List[Dict[str, Any]]) -> Tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=item["name"],
            shape=tuple(item["shape"]),
            dtype=item["dtype"],
            ranges={dim: (low, high) for dim, (low, high) in item["ranges"].items()},
        )
        for item in items
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def file_names(folder: Path) -> List[str]:
    """Every file below `folder` but the manifest and compiled Python, with forward slashes, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted({path.relative_to(folder).as_posix() for path in files} - {FILE_NAME})


def hashes(folder: Path) -> Dict[str, str]:
    """SHA-256 of every file that `file_names` lists."""
    return {name: sha256_of(folder / name) for name in file_names(folder)}


def verify(folder: Path, manifest: Manifest) -> None:
    """Hold every file of a bundle against its hash.

    Raises:
        BadFileError: names the first file that is missing, altered or outside the folder.
    """
    root = folder.resolve()
    for name, expected in manifest.files.items():
        path = (root / name).resolve()
        if root not in path.parents:
            raise BadFileError("{}: {!r} leaves the bundle".format(folder, name), "do not use this bundle")
        if not path.is_file():
            raise BadFileError("{}: {} is missing".format(folder, name), "copy or compile the bundle again")
        if sha256_of(path) != expected:
            raise BadFileError(
                "{}: {} was altered or cut short: its hash differs".format(folder, name),
                "copy or compile the bundle again",
            )
