"""The runner of TensorRT 8.5 to 11 and TensorRT-RTX: both Python modules have the same names."""

from __future__ import annotations

from pathlib import Path
from traceback import clear_frames
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np

from .._cuda import Cuda, require_gpu
from ..errors import BadFileError, EdgekitError, HardwareError, SystemRefusedError
from ..plans import foreign, layers, log, place
from ..plans.features import features_of, load
from . import EngineOptions, Layer, check_feeds
from ._ports import Port, choose_profile, narrowed, output_allocator, read_profiles

Shapes = Dict[str, Tuple[int, ...]]

_MARKS = ("start", "uploaded", "computed", "downloaded")


class TensorRtRunner:
    """An engine with one execution context, its buffers, and one stream that all work goes through.

    `timings` holds the milliseconds of the last call between CUDA events: `h2d_ms` (copies to the
    GPU), `compute_ms`, `d2h_ms` (copies back), `end_to_end_ms` (from the first copy to the last). The
    host's own copies between the caller's arrays and page-locked memory are not in them.

    `opened` is runtime, engine and context, as `foreign.open_plan` gives them.
    """

    def __init__(self, trt: Any, opened: Tuple[Any, Any, Any], cuda: Cuda, options: EngineOptions) -> None:
        self._trt = trt
        self._cuda = cuda
        self._runtime, self._engine, self._context = opened
        self._allocator: Any = None
        self._profile = 0
        self._shapes: Shapes = {}
        self.timings: Dict[str, float] = {}
        try:
            self._prepare(options)
        except BaseException:
            self._let_go()
            raise

    def _prepare(self, options: EngineOptions) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._ports: Dict[str, Port] = {}
        for name in names:
            self._ports[name] = Port(self._trt, engine, name, self._cuda)
        self._profiles = read_profiles(engine, list(self._ports.values()))
        specs = [port.spec(self._profiles) for port in self._ports.values()]
        self.inputs = tuple(spec for spec in specs if self._ports[spec.name].is_input)
        self.outputs = tuple(spec for spec in specs if not self._ports[spec.name].is_input)
        self._replay = _Replay(self._cuda, options.cuda_graph)
        self._events = {mark: self._cuda.event() for mark in _MARKS}
        self.settings: Mapping[str, Any] = self._settings(options)

    def _let_go(self) -> None:
        """TensorRT's objects live in CUDA's context: they go before it does."""
        self._allocator = self._context = self._engine = self._runtime = None

    def _settings(self, options: EngineOptions) -> Dict[str, Any]:
        features = features_of(self._trt)
        return {
            "device": "GPU.{}".format(gpu_index(options.device)),
            "gpu": self._cuda.name,
            "precision": options.precision,
            features.flavour: features.version,
            "profile_count": len(self._profiles),
            "cuda_graph": self._replay.state,
        }

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Named arrays in, named arrays out, copies to and from the GPU included.

        Raises:
            BadFileError: a name or a type does not fit, or no optimization profile takes the shapes.
            HardwareError: the GPU refused.
            SystemRefusedError: the GPU's memory is full.
        """
        arrays = self._fitting(feeds)
        self._messages.clear()
        self._cuda.activate()
        self._set_inputs(arrays)
        shapes = self._set_outputs()
        self._record("start")
        for name, array in arrays.items():
            self._ports[name].upload(array.shape)
        self._record("uploaded")
        self._compute()
        self._record("computed")
        shapes = self._final(shapes)
        for name, shape in shapes.items():
            self._ports[name].download(shape)
        self._record("downloaded")
        self._cuda.wait()
        self._read_timings()
        return {name: self._ports[name].read(shape) for name, shape in shapes.items()}

    @property
    def _messages(self) -> log.Messages:
        messages: log.Messages = log.logger(self._trt).messages
        return messages

    def _fitting(self, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        specs = {spec.name: spec for spec in self.inputs}
        arrays = {
            name: narrowed(np.asarray(array), specs[name]) if name in specs else np.asarray(array)
            for name, array in feeds.items()
        }
        check_feeds(arrays, self.inputs)
        return arrays

    def _set_inputs(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill the host buffers; tell TensorRT profile, shapes and addresses, when one has changed."""
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = choose_profile(self._profiles, shapes)
        if profile != self._profile:
            self._shapes, self._profile = {}, -1
            if not self._context.set_optimization_profile_async(profile, self._cuda.stream):
                raise self._failed("TensorRT could not switch to optimization profile {}".format(profile))
            self._profile = profile
        for name, array in arrays.items():
            self._ports[name].fill(array)
        if shapes == self._shapes:
            return
        self._shapes = {}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BadFileError(
                    "input {!r} has shape {}, which the plan does not take".format(name, shape),
                    self._messages.last_error(),
                )
        self._shapes = shapes

    def _set_outputs(self) -> Shapes:
        """The outputs' shapes, -1 where only the run can tell; every buffer is ready and told."""
        for spec in self.inputs:
            self._context.set_tensor_address(spec.name, self._ports[spec.name].address)
        shapes = {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self.outputs}
        for name, shape in shapes.items():
            port = self._ports[name]
            if min(shape, default=0) < 0:
                self._let_allocate(name)
                continue
            port.reserve(port.size_of(shape))
            self._context.set_tensor_address(name, port.address)
        return shapes

    def _let_allocate(self, name: str) -> None:
        if self._allocator is None:
            self._allocator = output_allocator(self._trt, self._ports)
        self._context.set_output_allocator(name, self._allocator)

    def _compute(self) -> None:
        addresses = tuple(port.address for port in self._ports.values())
        key = (self._profile, tuple(self._shapes.items()), addresses)
        self._replay.run(key, self._execute, self._capturable())
        if self.settings["cuda_graph"] != self._replay.state:
            self.settings = dict(self.settings, cuda_graph=self._replay.state)

    def _capturable(self) -> bool:
        """Whether a captured run would do the same again; TensorRT-RTX also compiles kernels at first."""
        if self._allocator is not None or any(port.on_host for port in self._ports.values()):
            return False
        if not hasattr(self._context, "is_stream_capturable"):
            return True
        return bool(self._context.is_stream_capturable(self._cuda.stream))

    def _execute(self) -> None:
        if self._allocator is not None:
            self._allocator.shapes.clear()
        if not self._context.execute_async_v3(self._cuda.stream):
            if self._allocator is not None and self._allocator.fault is not None:
                raise self._allocator.fault
            raise self._failed("TensorRT could not run the plan")

    def _final(self, shapes: Shapes) -> Shapes:
        """The same with the shapes that the run has told."""
        if self._allocator is None:
            return shapes
        told: Shapes = {**shapes, **self._allocator.shapes}
        for name, shape in told.items():
            if min(shape, default=0) < 0:
                raise self._failed("TensorRT does not tell the shape of output {!r}".format(name))
        return told

    def _failed(self, what: str) -> EdgekitError:
        lack = self._messages.out_of_memory()
        if lack:
            return SystemRefusedError(
                "{}: {}".format(what, lack), "close other programs, or use less at once"
            )
        said = self._messages.last_error()
        return HardwareError("{}: {}".format(what, said or "its log is empty"), "see nvidia-smi")

    def _record(self, mark: str) -> None:
        self._cuda.record(self._events[mark])

    def _read_timings(self) -> None:
        events, elapsed = self._events, self._cuda.elapsed_ms
        self.timings = {
            "h2d_ms": elapsed(events["start"], events["uploaded"]),
            "compute_ms": elapsed(events["uploaded"], events["computed"]),
            "d2h_ms": elapsed(events["computed"], events["downloaded"]),
            "end_to_end_ms": elapsed(events["start"], events["downloaded"]),
        }

    def layers(self) -> List[Layer]:
        """The layers that compute, as the engine's inspector tells them."""
        self._cuda.activate()
        inspector = self._engine.create_engine_inspector()
        return layers.from_inspector(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Let TensorRT's objects go, then everything on the GPU. A second call does nothing."""
        if self._runtime is None:
            return
        try:
            self._cuda.activate()
        finally:
            self._let_go()
            self._cuda.close()

    def __enter__(self) -> "TensorRtRunner":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class _Replay:
    """Runs the engine, as a CUDA graph where that was asked for and can be.

    A graph holds shapes and addresses, and the context has only one set of them: what was captured
    for other shapes is void. The first call with new ones is a plain one, as TensorRT wants it.
    """

    def __init__(self, cuda: Cuda, wanted: bool) -> None:
        self._cuda = cuda
        self._wanted = wanted
        self._key: Any = None
        self._graph: Optional[int] = None
        self.state = "waiting for a second call of the same shapes" if wanted else "off"

    def run(self, key: Any, execute: Callable[[], None], capturable: bool) -> None:
        """`execute`, or what was captured of it while `key` is the same."""
        if key != self._key:
            self._forget()
        elif self._wanted and self._graph is None:
            self._capture(execute, capturable)
        if self._graph is None:
            execute()
        else:
            self._cuda.launch(self._graph)
        self._key = key

    def _forget(self) -> None:
        if self._graph is not None:
            self._cuda.free_graph(self._graph)
        self._key = self._graph = None

    def _capture(self, execute: Callable[[], None], capturable: bool) -> None:
        if not capturable:
            self.state = "refused: this run cannot be captured"
            return
        try:
            self._graph = self._cuda.capture(execute)
            self.state = "captured"
        except EdgekitError as error:
            self._wanted = False
            self.state = "refused: " + error.message


def open_engine(flavour: str, path: Path, options: EngineOptions) -> TensorRtRunner:
    """Open a plan of `tensorrt` or `tensorrt_rtx` on the GPU that `options.device` names.

    Raises:
        HardwareError: there is no such GPU; nothing of TensorRT is touched then.
        MissingPackageError: the Python package is not installed.
        BadFileError: the file is no plan, or one of another GPU, platform or version.
        SystemRefusedError: the GPU's memory is full.
    """
    gpu = gpu_index(options.device)
    foreign.inspect(path, flavour)  # needs no GPU: a file that is no plan is told first
    require_gpu(gpu)
    trt = load(flavour)
    if dict(options.built_on) != place.here(trt, gpu):
        foreign.try_in_child(path, flavour, gpu, options.host_code)
    cuda = Cuda(gpu)
    try:
        return TensorRtRunner(trt, foreign.open_plan(trt, path, options.host_code), cuda, options)
    except BaseException as error:
        clear_frames(error.__traceback__)  # what they hold of TensorRT goes before CUDA's context
        cuda.close()
        raise


def gpu_index(device: str) -> int:
    """The number in `GPU`, `GPU.1`, `CUDA.1` or `1`; any other device is no device of TensorRT."""
    family, _, number = device.rpartition(".")
    number = number if family or number.isdigit() else "0"
    if (family or device).upper() not in ("GPU", "CUDA") and not device.isdigit():
        raise HardwareError(
            "TensorRT does not run on {}".format(device), "use GPU, or GPU.1 for the second one"
        )
    if not number.isdigit():
        raise HardwareError("there is no device {}".format(device), "use GPU, or GPU.1 for the second one")
    return int(number)
