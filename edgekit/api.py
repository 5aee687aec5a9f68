"""The tool from Python, with the words of the command line.

made = edgekit.compile(network, inputs=["x=float32[batch:1..8,3,64,64]"], target="openvino",
                       precision="int8", calibration="samples.npz", max_error="5%")
made.report.passed, made.bundle, made.infer({"x": array})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit import pipeline
from edgekit import recipe as recipes
from edgekit.declare import parse_errors, parse_share
from edgekit.report import Report
from edgekit.runtime.session import Session, open_bundle
from edgekit.spec import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

Texts = str | Sequence[str]


class Compiled:
    """A bundle that was just made: its report, its folder, and the engine, opened when it is first used.

    A context manager; `close` gives the engine's memory back.
    """

    def __init__(self, report: Report, bundle: Path) -> None:
        self.report = report
        self.bundle = bundle
        self._session: Session | None = None

    @property
    def passed(self) -> bool | None:
        """As the report says: None when the engine could not be proved here."""
        return self.report.passed

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named arrays in, batch axis first, named arrays out; hidden states start at zero.

        Raises:
            BadFileError: a name, shape or type does not fit.
            HardwareError: the bundle holds no engine that runs here.
        """
        if self._session is None:
            self._session = open_bundle(self.bundle)
        return self._session.infer(feeds)

    def close(self) -> None:
        """Close the engine; `infer` opens it again."""
        if self._session is not None:
            self._session.__exit__(None, None, None)
            self._session = None

    def __enter__(self) -> Compiled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def compile(
    model: str | Path | Recipe | torch.nn.Module,
    output: str | Path | None = None,
    *,
    inputs: Texts = (),
    states: Texts = (),
    target: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    board: str | None = None,
    compute_capability: Texts = (),
    weights: str | Path | None = None,
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    metric: str | None = None,
    preprocess: str | None = None,
    decode: str | None = None,
    labels: str | Path | None = None,
    max_drop: str | float | None = None,
    max_error: str | float | Sequence[str] | Mapping[str, str | float] | None = None,
    plan: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> Compiled:
    """Make a proved bundle of a network: export, quantize, compile, then parity, accuracy and latency.

    `model` is what the command line takes, a Recipe, or a PyTorch module itself. The other words are
    the options of `edgekit compile`; `max_error` is one limit, limits of outputs by name, or both as
    texts, `["5%", "scores=2%"]`. Whether the checks passed is in the report: nothing is raised for a
    check that failed.

    Raises:
        EdgekitError: something could not be done; nothing half-written is left.
    """
    said = {
        "target": target, "precision": precision, "device": device, "board": board, "weights": weights,
        "data": data, "calibration": calibration, "compute_capabilities": _texts(compute_capability),
        "network": {
            "inputs": _texts(inputs), "states": _texts(states), "metric": metric, "preprocess": preprocess,
            "decode": decode, "labels": str(labels or ""),
        },
        "max_drop": _share(max_drop, "max_drop"), **_errors(max_error),
        "plan": plan, "seed": seed, "overrides": overrides,
    }  # fmt: skip
    recipe = model if isinstance(model, Recipe) else _recipe(model, said)
    report = pipeline.compile(recipe, output)
    return Compiled(report, Path(report.bundle or ""))


def _recipe(model: str | Path | torch.nn.Module, said: dict[str, Any]) -> Recipe:
    if isinstance(model, (str, Path)):
        return pipeline.load(str(model), **said)
    return pipeline.load(recipes.OBJECT + type(model).__name__, module=model, **said)


def _texts(said: Texts) -> list[str]:
    return [said] if isinstance(said, str) else list(said)


def _errors(said: str | float | Sequence[str] | Mapping[str, str | float] | None) -> dict[str, Any]:
    """The limit for all outputs, and those of single ones."""
    if said is None:
        return {}
    if isinstance(said, Mapping):
        said = [f"{name}={limit}" for name, limit in said.items()]
    texts = [str(said)] if isinstance(said, (str, float, int)) else said
    common, by_output = parse_errors(texts, "max_error")
    return {"max_error": common, "max_errors": by_output}


def _share(said: str | float | None, option: str) -> float | None:
    return None if said is None else parse_share(str(said), option)
