"""What each layer alone does to the network's output when it is quantized, on calibration samples."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quantization._switches import SWITCHES
from edgekit.runtime.proof import Parity
from edgekit.spec import Progress, silent

if TYPE_CHECKING:
    from edgekit.quantization._switches import Switches

Feeds = Mapping[str, "np.ndarray[Any, Any]"]

MOST_FEEDS = 16
SHARE = 0.3
"""What of the time of a search may be spent on the sensitivity of single layers."""


class Switched:
    """The float network with a switch for each layer's quantization, as ONNX Runtime computes it.

    It foretells what a plan does to the output; an engine's own kernels are judged apart.
    """

    def __init__(self, switches: Switches, limits: Mapping[str, float]) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        # Its fusions look for the weights of a branch in the graph around it, and fail.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(
            switches.graph.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._switches, self._limits = switches, limits
        self.layers = tuple(switches.layers)
        self._feeds: list[Feeds] = []
        self._expected: list[Feeds] = []

    def look_at(self, feeds: Sequence[Feeds], seconds: float) -> None:
        """Take as many of `feeds`, at most MOST_FEEDS, as every layer can be tried on in `seconds`."""
        step = max(len(feeds) // MOST_FEEDS, 1)
        start = time.monotonic()
        for feed in feeds[::step][:MOST_FEEDS]:
            self._feeds.append(feed)
            self._expected.append(self._run(feed, ()))
            spent = time.monotonic() - start
            if spent * (len(self.layers) + 1) > seconds:
                return

    def difference(self, quantized: Collection[str]) -> Parity:
        """What the output comes to with these layers quantized."""
        found = Parity()
        for feed, expected in zip(self._feeds, self._expected, strict=True):
            found.add(expected, self._run(feed, quantized))
        return found

    def miss(self, quantized: Collection[str]) -> float:
        """The largest share of an output's limit that the error takes up."""
        checks = self.difference(quantized).checks(self._limits)
        return max(check.value / check.limit for check in checks if check.limit and not check.at_least)

    def alone(self, progress: Progress = silent) -> dict[str, float]:
        """Relative L2 at the output when one layer alone is quantized, for every layer."""
        errors = {}
        for done, layer in enumerate(self.layers, 1):
            errors[layer] = self.difference((layer,)).rel_l2
            progress("what each layer does to the output", done, len(self.layers))
        return errors

    def _run(self, feed: Feeds, quantized: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
        given = {**feed, SWITCHES: self._switches.values(quantized)}
        return dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))
