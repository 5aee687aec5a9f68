"""The shared nouns of the workstation side: what a plug-in defines and what a step hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.runtime.manifest import Detection, Labels, Preprocess, State, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
REL_L2 = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1}
AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "bf16": 0.99, "int8": 0.98}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plug-in by name with the options it is given."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """`[export]`: `states` makes the hidden states inputs and outputs of the graph."""

    opset: int = 18
    states: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`[limits]`: what a bundle must keep to be called passed.

    `rel_l2` (relative L2 error of the outputs) and `agreement` (share of equal decoded answers) are
    given per precision, and a precision left out keeps its default; `outputs` is the relative L2 error
    of single outputs by name, in place of `rel_l2` (of integers: the share of values that may differ);
    `max_drop` is in units of the task's metric (0.005 is half a point); `p50_ms` is the engine's
    median latency.
    """

    rel_l2: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, float] = field(default_factory=dict)
    max_drop: float = 0.005
    p50_ms: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rel_l2", {**REL_L2, **self.rel_l2})
        object.__setattr__(self, "agreement", {**AGREEMENT, **self.agreement})


@dataclass(frozen=True, kw_only=True)
class Search:
    """`[search]`: look for the fastest plan (layer -> precision) that keeps the limits.

    At most `trials` engines are built and at most `seconds` are spent, then the best so far is taken.
    `any_precision` lets the search choose a floating precision where int8 is not worth it.
    """

    seconds: float = 60.0
    trials: int = 24
    any_precision: bool = False

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.trials >= 1):
            raise ValueError("seconds must be above 0 and trials at least 1")


@dataclass(frozen=True, kw_only=True)
class Own:
    """A user's own network, as the command line or `[network]` of a recipe says it.

    `source` is `package.module:function`, or the path of a `.onnx` or `.pt2` file; modules are
    imported from `folder`. `states` pairs an input with the output that feeds it. What is left
    empty is inferred, and said.
    """

    source: str
    folder: Path
    inputs: tuple[TensorSpec, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    preprocess: Preprocess | None = None
    decode: Mapping[str, Any] = field(default_factory=dict)
    """What was said of a detector's outputs: fields of `Detection`."""
    labels: Path | None = None
    """The file with the names of the classes."""
    metric: str = ""
    module: torch.nn.Module | None = field(default=None, compare=False, repr=False)
    """The network itself, where Python has handed it over; `source` is then only a name."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source gives: a PyTorch module in eval mode, or else the path of an ONNX file.

    The module takes the inputs, then the states, each in the order given here, as positional
    tensors, and returns a flat tuple: the outputs, then the final states. `sha256` stands for the
    weights, `notes` say what was inferred.
    """

    module: torch.nn.Module | None
    graph: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[State, ...]
    sha256: str
    notes: tuple[str, ...] = ()
    detection: Detection | None = None
    """How the outputs become boxes, where the file itself says it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a bundle contains. Made by `recipe.py`, never changed."""

    name: str
    model: Choice
    task: Choice
    data: Choice
    train: Mapping[str, Any]
    quantization: Choice
    export: ExportOptions
    target: Choice
    precision: str
    limits: Limits
    device: str = ""
    """Empty: the one that the target's options name."""
    board: str = ""
    """The profile of the board that it is for; empty: any."""
    seed: int = 0
    weights: Path | None = None
    own: Own | None = None
    """A network of the user's own: `model`, `task` and `data` are empty then."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """A user's own folder in place of a split of the data: `test`, `calibration`."""
    plan: Mapping[str, str] = field(default_factory=dict)
    """Layer -> precision, as given; a layer that is not named gets the method's default."""
    search: Search | None = None
    """None, or a plan is given: nothing is looked for."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file or folder that a step has made."""

    kind: str
    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    states: tuple[State, ...] = ()
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a graph meets on a target: the ONNX node, the module it came from, and the cure.

    `severity` is `error` (it cannot go there), `warning` (it can, and something will hurt) or
    `cured` (edgekit changes the graph by itself); `rule` names what was looked for, and `versions`
    says where it holds, such as `TensorRT 8.5`; empty means everywhere.
    """

    node: str
    module: str
    reason: str
    cure: str = ""
    severity: str = "error"
    rule: str = ""
    versions: str = ""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a network is fed: its inputs, states last, and the sizes that real data has.

    `seen` holds one size per sample for each dynamic dimension that was looked at, `batch` not
    among them; it decides where an engine is tuned, never what it takes.
    """

    inputs: tuple[TensorSpec, ...]
    seen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where data comes from, and under which licence."""

    name: str
    licence: str
    package: str = ""


@dataclass(frozen=True)
class Sample:
    """One example: an array per model input, without the batch axis, and what should come out.

    `states` are hidden states to begin with, by their input's name, without the batch axis too; the
    others begin at their initial value.
    """

    inputs: tuple[np.ndarray, ...]
    target: Any
    states: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Objects:
    """What is to be seen in one image: a detector's `Sample.target`.

    `boxes` are corners x1, y1, x2, y2 in pixels of the network's input, (k, 4) float32, `classes` the
    places of their names among the labels, (k,) int64. Where `ignored`, (k,) bool, is true the object is
    one that need not be found, as a crowd is, and finding it is no fault.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


class Dataset(Protocol):
    """Random access to the samples of one split; the same index gives the same sample.

    A training split may be augmented: `set_epoch` then chooses the augmentation, reproducibly.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...
    def set_epoch(self, epoch: int, /) -> None: ...


class ModelPlugin(Protocol):
    """`models/x.py`.

    `TINY` are the options of the same network at its smallest, every part of it there: what tests
    build, export and compile. `states` is optional: absent means that the network has none. So is
    `detection(options)`, which says how a detector's outputs become boxes, and
    `begin(module, samples, labels)`, which gives a fresh module what is counted in the training split.
    """

    TASK: str
    TINY: Any
    Options: type[Any]

    def build(self, options: Any, /) -> torch.nn.Module: ...
    def inputs(self, options: Any, /) -> tuple[TensorSpec, ...]: ...
    def outputs(self, options: Any, /) -> tuple[TensorSpec, ...]: ...
    def states(self, options: Any, /) -> tuple[State, ...]: ...


class TaskPlugin(Protocol):
    """`tasks/x.py`: the loss to train with and the metric to judge by.

    `scores` gives one number per sample; the metric is their mean. That is what lets the drop
    between reference and engine be judged in pairs. Where a metric is one of the whole set, as mAP
    is, `metric(answers, targets)` gives it in place of the mean. `answers` are what
    `runtime.decode.answers` makes of the outputs, by the decoder that `DECODER` names. An optional
    `LEAST_SCORE` is how low a detector's boxes are judged, however few of them its users are shown.
    """

    METRIC: str
    DECODER: str

    def collate(self, samples: Sequence[Sample], /) -> tuple[tuple[np.ndarray, ...], list[Any]]: ...
    def loss(
        self, outputs: Sequence[torch.Tensor], targets: list[Any], labels: Labels, /
    ) -> torch.Tensor: ...
    def scores(self, answers: Sequence[Any], targets: Sequence[Any], /) -> np.ndarray: ...


class DataPlugin(Protocol):
    """`data/x.py`: splits `train`, `validation`, `calibration` and `test`.

    What is in `test` is never seen in another split; calibration is drawn from what training sees.
    `preprocess` is None where the input is no image. `read(place, options)` is optional: the dataset
    in a user's own folder or file; without it labelled images are read. So is `words(options, cache)`:
    how a text becomes the input; labelled texts are read then.
    """

    Options: type[Any]
    SOURCES: tuple[Source, ...]

    def preprocess(self, options: Any, /) -> Preprocess | None: ...
    def labels(self, options: Any, /) -> Labels: ...
    def load(self, split: str, options: Any, cache: Path, /) -> Dataset: ...


class QuantizationPlugin(Protocol):
    """`quantization/x.py`: from a float graph to one with QuantizeLinear/DequantizeLinear nodes.

    `plan` maps a layer (the ONNX node's name) to the precision it must have; a layer that is not
    named gets the method's default. What is slow, `measure` does once for every plan: what it gives has
    `warnings`, sentences for the user, and is handed to `quantize` as it is.

    A budget is searched for with what follows, which is optional. `candidates(graph, options, measured)`
    gives the layers that can be int8, each with its `module`, `op_type`, `macs`, `default` and `repeated`;
    `switches(graph, measured, options)` one float graph in which each of them is quantized or not at
    run time; `smoothed(graph, calibration, measured)` is what `measure` gives with `options.smooth`.
    """

    REQUIRES: tuple[str, ...]
    Options: type[Any]

    def measure(
        self, graph: onnx.ModelProto, calibration: Sequence[Mapping[str, np.ndarray]], options: Any, /
    ) -> Any: ...
    def quantize(
        self, graph: onnx.ModelProto, measured: Any, plan: Mapping[str, str], options: Any, /
    ) -> onnx.ModelProto: ...
    def quantized_layers(self, graph: onnx.ModelProto, /) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a target has made: the engine's main file and every change made to the canonical graph.

    `engine` None means that the hardware to build it is not here, and `kit` is what the device needs
    to build it. `deferred` says why nothing can be proved here; empty when it can. `settings` go
    into the manifest; its `precision` is the floating precision that the engine is opened in.
    `layers` counts the layers by precision where the builder tells them, `built_on` says on which
    machine an engine that is tied to one was built, `notes` are for the report. `ranges` are the
    sizes of the dynamic dimensions that the engine takes, where they are fewer than the network's.
    """

    engine: Path | None
    lowering: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    deferred: str = ""
    kit: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    built_on: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class TargetPlugin(Protocol):
    """`targets/x.py`, the build half of a target; its run half is `runtime/engines/x.py`.

    `Options` has `device` and `threads` (0 means one per usable core). What follows is optional.
    `ready(precision, options)` says why no engine can be built on this machine (None: it can), and
    `kit(graph, shapes, precision, options)` what the device then needs to build it.
    `compile_module(module, inputs, outputs, states, precision, options, out)` takes the place of
    `compile` where the engine is not made from ONNX. `examine(graph, precision, versions)` tells
    all that a graph meets there, and `trial(graph, shapes, precision, options)` builds it on trial
    with what is installed. `lower(graph)` changes a graph in place into what the engine is made
    from, where the bundle holds no such graph. `FLOAT_LAYERS` are operators that it never runs in int8,
    and `rests(options)` the floating precisions that it has beside int8, the fastest first.
    """

    REQUIRES: tuple[str, ...]
    PRECISIONS: tuple[str, ...]
    Options: type[Any]

    def supports(self, graph: onnx.ModelProto, precision: str, /) -> list[Problem]: ...
    def compile(
        self,
        graph: Path,
        shapes: Shapes,
        precision: str,
        options: Any,
        out: Path,
        progress: Progress = silent,
        /,
    ) -> Build: ...
