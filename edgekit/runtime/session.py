"""A bundle, opened: arrays in and arrays out, or an image or a text in and an answer out."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Mapping, Optional, Type, Union

import numpy as np

from .clips import prepare_clip, read_clip, takes_clips
from .decode import decode
from .detection import decode_boxes, named
from .engines import EngineOptions, Runner, load_engine
from .errors import BadFileError, HardwareError, UsageError
from .manifest import Manifest, Words, read_manifest, verify
from .preprocess import prepare, read_image, to_image
from .sequence_file import fed_sequence
from .words import ids, read_text

HOST_CODE = "EDGEKIT_HOST_CODE"
"""Set to 1 by who trusts a bundle: a version-compatible plan carries machine code of its own."""


class Session:
    """An engine with its manifest. A context manager.

    Hidden states that are not fed start at their initial value; `infer` hands the final ones back
    under their output names, and `stream=True` feeds them to the next call.
    """

    def __init__(self, manifest: Manifest, runner: Runner, stream: bool = False) -> None:
        self.manifest = manifest
        self.runner = runner
        self._stream = stream
        self._carried: Dict[str, np.ndarray] = {}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run the engine on named arrays, batch axis first.

        Raises:
            BadFileError: a name, shape or type does not fit.
        """
        outputs = self.runner.infer(dict(self._states(feeds), **feeds))
        if self._stream:
            self._carried = {state.input: outputs[state.output] for state in self.manifest.states}
        return outputs

    def _states(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        missing = [state for state in self.manifest.states if state.input not in feeds]
        if not missing:
            return {}
        sizes = self._sizes(feeds)
        return {
            state.input: self._carried[state.input]
            if state.input in self._carried
            else np.full(
                [sizes[dim] if isinstance(dim, str) else dim for dim in state.shape], state.init, np.float32
            )
            for state in missing
        }

    def _sizes(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, int]:
        specs = {spec.name: spec for spec in self.manifest.inputs}
        return {
            dim: size
            for name, array in feeds.items()
            if name in specs
            for dim, size in zip(specs[name].shape, array.shape)
            if isinstance(dim, str)
        }

    def reset(self) -> None:
        """Forget the carried states: the next call starts a new sequence."""
        self._carried = {}

    def predict(self, source: Union[str, Path, np.ndarray]) -> Any:
        """What the network says of one image or text: the text it reads, the class it sees, of a detector
        the list of each `Box` in pixels of the image; without labels the outputs by name.

        `source` is an image's file, or uint8 of shape (height, width) or (height, width, 3). Where the
        network takes sequences it is a `.csv` or `.npy` with one row a step, or an array (time, features);
        where it takes clips, what `clips.read_clip` reads, or such frames along a first axis; where it
        reads texts, the text or its `.txt` file.

        Raises:
            BadFileError: the file is no image, or the outputs are not what the bundle says of them.
            UsageError: the bundle's network takes nothing of this kind.
        """
        preprocess, labels = self.manifest.preprocess, self.manifest.labels
        name = self.manifest.inputs[0].name
        if self.manifest.words is not None:
            return self._decoded(self.infer({name: _fed_text(source, self.manifest.words)}))
        if preprocess is None:
            return self._decoded(self.infer({name: fed_sequence(source, self.manifest.inputs)}))
        read, made = (read_clip, prepare_clip) if self._of_clips() else (read_image, prepare)
        pixels = read(Path(source)) if isinstance(source, (str, Path)) else source
        fed = made(pixels, preprocess)
        outputs = self.infer({name: fed})
        if self.manifest.detection is not None:
            found = decode_boxes(outputs, self.manifest.detection, (fed.shape[2], fed.shape[3]))[0]
            placed = to_image(found.boxes, preprocess, pixels.shape[0], pixels.shape[1])
            return named(found.seen_at(placed), labels.values if labels else None)
        return self._decoded(outputs)

    def _decoded(self, outputs: Dict[str, np.ndarray]) -> Any:
        labels = self.manifest.labels
        return outputs if labels is None else decode(outputs[self.manifest.outputs[0].name], labels)[0]

    def _of_clips(self) -> bool:
        return takes_clips(self.manifest.inputs[0])

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.runner.__exit__(kind, error, trace)


def _fed_text(source: Union[str, Path, np.ndarray], words: Words) -> np.ndarray:
    if isinstance(source, np.ndarray):
        raise UsageError("this bundle reads texts", "give a text, or use infer() with named arrays")
    text = read_text(source)
    if not text.strip():
        raise BadFileError("{!r}: the text is empty".format(str(source)), "give at least one word")
    return ids(text, words)


def open_bundle(
    folder: Union[str, Path],
    device: Optional[str] = None,
    threads: Optional[int] = None,
    shapes: Optional[Mapping[str, int]] = None,
    stream: bool = False,
) -> Session:
    """Open the bundle in `folder` after holding every file against its hash.

    `device` and `threads` replace what the bundle was made with; `shapes` fixes dynamic dimensions
    by name, which is faster.

    Raises:
        BadFileError: it is no bundle, or a file of it was altered.
        HardwareError: it holds no engine yet.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return Session(manifest, open_runner(folder, manifest, device, threads, shapes), stream)


def open_runner(
    folder: Path,
    manifest: Manifest,
    device: Optional[str] = None,
    threads: Optional[int] = None,
    shapes: Optional[Mapping[str, int]] = None,
) -> Runner:
    """The runner of a bundle's engine; the hashes are not looked at."""
    engine = manifest.engine
    if manifest.state == "deferred":
        raise HardwareError(
            "{} holds no engine yet, only what is needed to build one".format(folder),
            "on the device: python run.py build",
        )
    path = (folder / engine["file"]).resolve()
    if folder.resolve() not in path.parents:
        raise BadFileError("{}: {!r} leaves the bundle".format(folder, engine["file"]), "do not use it")
    options = EngineOptions(
        device=(device or manifest.device).upper(),
        precision=engine["precision"],
        threads=engine.get("threads", 0) if threads is None else threads,
        shapes=dict(shapes or {}),
        cuda_graph=engine.get("settings", {}).get("cuda_graph", False) not in (False, "off"),
        built_on=dict(engine.get("built_on") or {}),
        host_code=os.environ.get(HOST_CODE) == "1",
    )
    return load_engine(engine["kind"], path, options)
