"""The samples that int8 is calibrated on, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.spec import Dataset, Progress, silent
from edgekit.steps.load import Network, feeds_of

if TYPE_CHECKING:
    import numpy as np

Feeds = Sequence[Mapping[str, "np.ndarray"]]


def feeds_from(network: Network, data: Dataset, progress: Progress = silent) -> Feeds:
    """Every sample of a data set, one feed each."""
    feeds = []
    for index in range(len(data)):
        feeds.append(feeds_of(network, data[index]))
        progress("reading calibration samples", index + 1, len(data))
    return feeds


def fingerprint(feeds: Feeds) -> str:
    """A hash of the samples: which data an int8 graph was calibrated on."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in feed.items():
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
