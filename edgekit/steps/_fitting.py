"""The training loop: batches rendered in the background, one-cycle AdamW, checkpoints, validation."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.runtime.errors import BadFileError, HardwareError, UsageError
from edgekit.spec import Dataset, Sample, TaskPlugin
from edgekit.steps import _metric
from edgekit.steps._batches import Batch, Reading, batches, evaluate, gather
from edgekit.steps._weights import read_tensors, save_tensors

if TYPE_CHECKING:
    import torch

START, END = 1 / 25, 1 / 1000


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """AdamW with a one-cycle learning rate.

    `warm_up` is the share of the steps in which the rate rises, `clip` the largest norm of the
    gradient, `bf16` computes in bfloat16 where that is safe (weights stay float32), `workers` are
    the processes that make samples, `threads` those that compute (0: as many as torch likes; another
    number rounds otherwise, so only the same number gives the same bits), `resume` goes on from the
    last checkpoint.
    """

    steps: int = 2000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.15
    clip: float = 5.0
    validate_every: int = 250
    workers: int = 2
    threads: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    bf16: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.validate_every) < 1 or min(self.workers, self.threads) < 0:
            raise ValueError("steps, batch and validate_every must be at least 1, workers and threads 0")
        if not (self.learning_rate > 0 and self.clip > 0 and 0 <= self.warm_up < 1):
            raise ValueError("learning_rate and clip must be above 0, warm_up from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """Told after every step. `loss` is a running mean, `metric` the last validation's."""

    step: int
    total: int
    loss: float
    metric: float | None
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on what. `key` names the options; only an equal key may resume a checkpoint."""

    module: torch.nn.Module
    task: TaskPlugin
    reading: Reading
    train: Dataset
    validation: Dataset
    options: TrainOptions
    seed: int
    checkpoint: Path
    key: str


class Fitting:
    """One training run; `run` leaves the module with its best weights, in eval mode."""

    def __init__(self, job: Job, report: Callable[[TrainProgress], None]) -> None:
        import torch

        self.job, self.report = job, report
        self.device = _device(job.options.device)
        self.module = job.module.to(self.device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=job.options.learning_rate, weight_decay=job.options.weight_decay
        )
        self.step, self.loss = 0, math.nan
        self.metric: float | None = None
        self.best_metric = -1.0
        self.best: dict[str, torch.Tensor] = {}
        self.random: torch.Tensor | None = None

    def run(self) -> float:
        """Train to the last step and answer the best validation metric."""
        if self.job.options.resume:
            self._resume()
        samples = gather(self.job.validation, self.job.options.workers)
        first, started = self.step, time.perf_counter()
        for inputs, targets in self._batches():
            self._go_on_at_random()
            self._learn(inputs, targets)
            if self.step % self.job.options.validate_every == 0 or self.step == self.job.options.steps:
                self._validate(samples)
            pace = (time.perf_counter() - started) / (self.step - first)
            self._tell(pace * (self.job.options.steps - self.step))
        self.module.load_state_dict(self.best)
        self.module.eval()
        return self.best_metric

    def _batches(self) -> Iterator[Batch]:
        options = self.job.options
        return batches(
            self.job.train,
            self.job.task.collate,
            batch=options.batch,
            steps=range(self.step, options.steps),
            seed=self.job.seed,
            workers=options.workers,
        )

    def _go_on_at_random(self) -> None:
        """Let dropout go on where the checkpoint was written; what makes the batches has drawn since."""
        if self.random is not None:
            _random(self.device).set_rng_state(self.random)
            self.random = None

    def _learn(self, inputs: tuple[np.ndarray, ...], targets: list[Any]) -> None:
        import torch

        options = self.job.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * one_cycle(self.step / options.steps, options.warm_up)
        self.module.train()
        with _autocast(self.device, options.bf16):
            outputs = self.module(*(torch.from_numpy(array).to(self.device) for array in inputs))
        loss = self.job.task.loss(
            outputs if isinstance(outputs, tuple) else (outputs,), targets, self.job.reading.labels
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), options.clip)
        self._note(loss.item())
        self.optimizer.step()
        self.step += 1

    def _note(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UsageError(
                f"the training diverged at step {self.step}: the loss is {loss}", "lower train.learning_rate"
            )
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss

    def _validate(self, samples: Sequence[Sample]) -> None:
        found = evaluate(self.module, samples, self.job.task, self.job.reading)
        self.metric = _metric.value(self.job.task, found, [sample.target for sample in samples])
        if self.metric >= self.best_metric:
            self.best_metric = self.metric
            self.best = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self._save()

    def _tell(self, seconds_left: float) -> None:
        total = self.job.options.steps
        self.report(
            TrainProgress(
                step=self.step, total=total, loss=self.loss, metric=self.metric, seconds_left=seconds_left
            )
        )

    def _save(self) -> None:
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        tensors["random"] = _random(self.device).get_rng_state()
        notes = {"step": self.step, "best": self.best_metric, "loss": self.loss, "key": self.job.key}
        save_tensors(tensors, self.job.checkpoint, {"edgekit": json.dumps(notes)})

    def _resume(self) -> None:
        notes = _notes(self.job.checkpoint)
        if notes.get("key") != self.job.key:
            raise BadFileError(
                f"{self.job.checkpoint}: this checkpoint was made with other options", "train without resume"
            )
        tensors = read_tensors(self.job.checkpoint)
        self.module.load_state_dict(_below(tensors, "module."))
        self.best = {name: tensor.to(self.device) for name, tensor in _below(tensors, "best.").items()}
        moments: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in _below(tensors, "optimizer.").items():
            index, _, moment = name.partition(".")
            moments[int(index)][moment] = tensor
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": dict(moments)})
        self.random = tensors.get("random")
        self.step, self.best_metric, self.loss = notes["step"], notes["best"], notes["loss"]


def one_cycle(progress: float, warm_up: float) -> float:
    """The share of the peak learning rate at `progress` (0 to 1): up on a cosine, then down.

    Smith, Topin: Super-Convergence, arXiv 1708.07120.
    """
    if progress < warm_up:
        return _between(START, 1.0, progress / warm_up)
    return _between(1.0, END, (progress - warm_up) / (1 - warm_up))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise HardwareError("train.device is cuda, but torch sees no CUDA device", "leave out train.device")
    return torch.device(name)


def _random(device: torch.device) -> Any:
    """Where the state of a device's random numbers is read and set."""
    import torch

    return torch.cuda if device.type == "cuda" else torch


def _autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _notes(checkpoint: Path) -> dict[str, Any]:
    import safetensors

    if not checkpoint.is_file():
        raise BadFileError(f"{checkpoint}: no checkpoint to resume from", "train without resume")
    try:
        with safetensors.safe_open(checkpoint, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get("edgekit", "{}")))
    except (safetensors.SafetensorError, ValueError) as cause:
        raise BadFileError(f"{checkpoint}: not a checkpoint, or truncated", "train without resume") from cause


def key_of(options: TrainOptions, **others: Any) -> str:
    """What must be equal for a checkpoint to be resumed."""
    free = ("resume", "workers", "device")
    told = {name: value for name, value in asdict(options).items() if name not in free}
    return json.dumps({"train": told, **others}, sort_keys=True, default=str)
