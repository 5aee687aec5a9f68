"""One builder for TensorRT 8.5 to 11 and TensorRT-RTX: from a request to a plan.

Names that come and go between versions are asked for (`features.py`); enumeration members are never
written as numbers, because the numbers change.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from .. import _cuda
from ..errors import BadFileError, SystemRefusedError, UnsupportedError
from . import layers
from .config import configure, keep_float, refuse_request, use_capabilities, use_dla
from .features import Features, features_of
from .log import Messages, logger
from .memory import preflight
from .monitor import Progress, Watch, monitor
from .parsing import parse
from .place import find_gpu
from .profiles import add_profiles
from .request import BuildRequest, Built, Variant
from .variants import choose, precision_flags

_REQUESTED = re.compile(r"Requested size was (\d+) bytes")
_MORE_WORKSPACE = "allow more workspace, or narrow the ranges: the largest batch, the longest sequence"


def build(
    trt: Any,
    request: BuildRequest,
    root: Path,
    progress: Optional[Progress] = None,
    timing_cache: Optional[bytes] = None,
) -> Built:
    """Build the plan of `request`; its variants are files below `root`.

    `timing_cache` is what an earlier build gave back. Ctrl-C stops a build, see `monitor.Watch`.

    Raises:
        HardwareError: there is no GPU, and this builder needs one; nothing of it is touched then.
        UnsupportedError: this version does not take the graph, the precision or an option.
        UsageError: a profile does not fit the graph, or there is no such DLA core.
        BadFileError: the graph is missing or no ONNX model.
        SystemRefusedError: there is not enough memory.
    """
    start = time.perf_counter()
    features = features_of(trt)
    with _device(features, request.gpu) as gpu:
        refuse_request(trt, features, request)
        variant = choose(trt, features, request.variants)
        flags = precision_flags(trt, features, request.precision, variant.typing)
        graph = _graph(root, variant)
        workspace, notes = preflight(graph, request.workspace_bytes, gpu)
        job = _Job(trt, features, request, variant, graph, flags, workspace)
        plan, cache, said = _run(job, progress, timing_cache if gpu is not None else None, gpu is not None)
    messages: Messages = logger(trt).messages
    return Built(
        plan=plan,
        variant=variant,
        typing=variant.typing,
        layers=layers.from_log(messages.layers),
        timing_cache=cache,
        notes=notes + said,
        seconds=round(time.perf_counter() - start, 3),
    )


@dataclass(frozen=True)
class _Job:
    """One build with everything decided that does not need TensorRT's own objects."""

    trt: Any
    features: Features
    request: BuildRequest
    variant: Variant
    graph: Path
    flags: Sequence[str]
    workspace: int


@contextmanager
def _device(features: Features, index: int) -> Iterator[Optional[int]]:
    """Make GPU number `index` the current one; None where the builder can do without and must."""
    if features.ahead_of_time and find_gpu(index) is None:
        yield None
        return
    _cuda.require_gpu(index)
    cuda = _cuda.Cuda(index)
    try:
        yield index
    finally:
        cuda.close()


def _graph(root: Path, variant: Variant) -> Path:
    graph = (root / variant.file).resolve()
    if root.resolve() not in graph.parents or not graph.is_file():
        raise BadFileError("{} has no graph {}".format(root, variant.file), "compile the model again")
    return graph


def _run(
    job: _Job, progress: Optional[Progress], timing_cache: Optional[bytes], timed: bool
) -> Tuple[bytes, Optional[bytes], Tuple[str, ...]]:
    """The plan, the timing cache after it, and what is to be said."""
    trt, keeper = job.trt, logger(job.trt)
    keeper.messages.clear()
    builder = trt.Builder(keeper)
    network = builder.create_network(_network_flags(job))
    parser = parse(trt, network, keeper, job.graph, job.features.title)
    config = builder.create_builder_config()
    configure(trt, config, job.request, job.flags, job.workspace)
    if job.flags:
        keep_float(trt, network, config)
    use_dla(trt, builder, config, job.request.dla_core)
    use_capabilities(trt, job.features, config, job.request.compute_capabilities)
    add_profiles(builder, config, network, job.request.profiles)
    keeps_times = timed and job.features.timing_cache
    notes = _use_cache(config, timing_cache) if keeps_times else []
    with Watch(progress) as watch:
        watch.tell("building with " + job.features.title, 0, 0)
        if job.features.progress:
            config.progress_monitor = monitor(trt, watch)
        plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise _refusal(job, keeper.messages)
    cache = bytes(config.get_timing_cache().serialize()) if keeps_times else None
    return bytes(plan), cache, tuple(notes)


def _network_flags(job: _Job) -> int:
    flags = job.trt.NetworkDefinitionCreationFlag
    wanted = ["EXPLICIT_BATCH"] if job.features.explicit_batch else []
    wanted += ["STRONGLY_TYPED"] if job.variant.typing == "strong" else []
    return sum(1 << int(getattr(flags, name)) for name in wanted)


def _use_cache(config: Any, content: Optional[bytes]) -> List[str]:
    """Give the builder what it measured before, or an empty cache to fill."""
    cache = config.create_timing_cache(content or b"")
    if cache is not None and config.set_timing_cache(cache, False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return ["the timing cache of another build was not taken: every kernel was timed again"]


def _refusal(job: _Job, messages: Messages) -> Exception:
    """Why there is no plan, as an error."""
    short = messages.out_of_memory()
    needed = _REQUESTED.search(short)
    if needed and int(needed.group(1)) > job.workspace:
        return SystemRefusedError(
            "{} needs {} MB of workspace for the largest shapes of {}, and {} MB are allowed".format(
                job.features.title, int(needed.group(1)) >> 20, job.graph.name, job.workspace >> 20
            ),
            _MORE_WORKSPACE,
        )
    lack = messages.out_of_workspace()
    if lack:
        return SystemRefusedError(
            "{} finds no kernel for {} in a workspace of {} MB: {}".format(
                job.features.title, job.graph.name, job.workspace >> 20, lack
            ),
            _MORE_WORKSPACE,
        )
    if short:
        return SystemRefusedError(
            "{} ran out of memory while building {}: {}".format(job.features.title, job.graph.name, short),
            "stop other programs, add swap, or give less workspace",
        )
    reason = messages.last_error() or "it gives no reason"
    return UnsupportedError(
        "{} built no plan of {}: {}".format(job.features.title, job.graph.name, reason),
        "compile the model for another precision, or build with another version",
    )
