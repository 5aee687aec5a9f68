"""From the network's numbers to answers."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .detection import decode_boxes
from .errors import BadFileError
from .manifest import Detection, Labels

BLANK = 0


def answers(
    outputs: Mapping[str, np.ndarray],
    labels: Labels,
    detection: Optional[Detection] = None,
    size: Tuple[int, int] = (0, 0),
) -> List[Any]:
    """One answer per sample: of a detector what it has found, else what the first output says.

    Args:
        outputs: the network's outputs by name, in their order, batch first.
        detection: how the outputs become boxes; None where the network is no detector.
        size: height and width of a detector's input, for coordinates that are shares of it.

    Raises:
        BadFileError: an unknown decoder, or outputs whose shape does not fit.
    """
    if detection is not None:
        return list(decode_boxes(outputs, detection, size))
    return list(decode(next(iter(outputs.values())), labels))


def decode(outputs: np.ndarray, labels: Labels) -> List[str]:
    """One answer per sample, by the decoder that `labels` names.

    Args:
        outputs: `argmax`: (batch, classes); `binary`: (batch, 1); `ctc`: (batch, steps, classes).

    Raises:
        BadFileError: an unknown decoder, or outputs whose shape does not fit the labels.
    """
    if labels.decoder not in DECODERS:
        raise BadFileError(
            f"labels: unknown decoder {labels.decoder!r}", "this runtime knows " + ", ".join(sorted(DECODERS))
        )
    return DECODERS[labels.decoder](outputs, labels)


def argmax(outputs: np.ndarray, labels: Labels) -> List[str]:
    """The class with the largest number. `outputs`: (batch, classes)."""
    _check(outputs, 2, labels)
    return [labels.values[index] for index in outputs.argmax(axis=1)]


def binary(outputs: np.ndarray, labels: Labels) -> List[str]:
    """The second label where the sigmoid of the one number is above 1/2, else the first: (batch, 1)."""
    if outputs.ndim != 2 or outputs.shape[1] != 1 or len(labels.values) != 2:
        raise BadFileError(
            f"outputs of shape {outputs.shape} do not tell {len(labels.values)} labels apart",
            "the decoder binary wants (batch, 1) and two labels",
        )
    return [labels.values[int(number > 0)] for number in outputs[:, 0]]


def ctc(outputs: np.ndarray, labels: Labels) -> List[str]:
    """Best path decoding: the likeliest symbol of each step, repeats merged, blanks dropped.

    Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006,
    section 3.2. `outputs`: (batch, steps, classes), blank is class 0.
    """
    _check(outputs, 3, labels)
    return ["".join(labels.values[index] for index in _collapse(path)) for path in outputs.argmax(axis=2)]


def _collapse(path: np.ndarray) -> np.ndarray:
    first = np.ones(path.shape, bool)
    first[1:] = path[1:] != path[:-1]
    return np.asarray(path[first & (path != BLANK)])


def _check(outputs: np.ndarray, rank: int, labels: Labels) -> None:
    if outputs.ndim != rank or outputs.shape[-1] != len(labels.values):
        raise BadFileError(
            f"outputs of shape {outputs.shape} do not fit {len(labels.values)} labels",
            f"the decoder {labels.decoder} wants {rank} axes, the last one the classes",
        )


DECODERS: Dict[str, Callable[[np.ndarray, Labels], List[str]]] = {
    "argmax": argmax,
    "binary": binary,
    "ctc": ctc,
}
