"""CUDA through ctypes, run for real against a driver library that needs no GPU."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgekit.runtime import _cuda
from edgekit.runtime._cuda import Cuda, memory_info, require_gpu
from edgekit.runtime._driver import Driver
from edgekit.runtime.errors import HardwareError, SystemRefusedError
from edgekit.runtime.probe import Gpu, GpuProbe, probe_gpus
from tests.runtime.fake_cuda import LAUNCH_FAILED, NO_NAME, OUT_OF_MEMORY, FakeCuda


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


def test_the_probe_tells_what_the_driver_knows(fake: FakeCuda) -> None:
    fake.gpus(2)
    fake.limit(8 << 30)
    orin = Gpu(0, "Fake Orin", (8, 7), 8 << 30, integrated=True)
    assert probe_gpus(fake.path) == GpuProbe(
        (orin, Gpu(1, "Fake Orin", (8, 7), 8 << 30, integrated=True)), "", "12.6"
    )
    assert fake.live() == {}


def test_a_driver_without_a_gpu(fake: FakeCuda) -> None:
    fake.gpus(0)
    assert probe_gpus(fake.path).reason.endswith("finds no usable GPU (cuInit answers CUDA_ERROR_NO_DEVICE)")
    with pytest.raises(HardwareError, match="cuInit failed: CUDA_ERROR_NO_DEVICE"):
        Cuda(0, fake.path)


def test_no_driver_is_a_sentence() -> None:
    with pytest.raises(HardwareError, match=r"no NVIDIA driver here \(libno_such\.so does not load\)"):
        Cuda(0, "libno_such.so")
    with pytest.raises(HardwareError, match="the NVIDIA driver has no cuInit"):
        Cuda(0, "libm.so.6")


def test_a_gpu_number_that_is_not_there(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "probe_gpus", lambda: probe_gpus(fake.path))
    require_gpu(0)
    with pytest.raises(HardwareError, match="no GPU number 1"):
        require_gpu(1)
    with pytest.raises(HardwareError, match="cuDeviceGet failed: CUDA_ERROR_INVALID_DEVICE"):
        Cuda(1, fake.path)


def test_bytes_there_and_back(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    address = cuda.allocate(sent.nbytes)
    host = cuda.allocate_host(sent.nbytes).view(np.float32).reshape(3, 4)
    cuda.upload(address, sent)
    cuda.download(host, address)
    cuda.wait()
    assert np.array_equal(host, sent)
    assert cuda.name == "Fake Orin"
    assert cuda.stream > 0
    assert fake.live() == {"device": 1, "host": 1, "stream": 1, "context": 1}
    cuda.free(address)
    cuda.free_host(host)
    cuda.close()
    assert fake.live() == {}


def test_close_gives_back_what_is_left(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    cuda.allocate(10)
    cuda.allocate(0)
    cuda.allocate_host(0)
    cuda.event()
    cuda.capture(lambda: None)
    assert fake.live()["graph_exec"] == 1
    cuda.close()
    cuda.close()
    assert fake.live() == {}
    assert not fake.has_context


def test_the_context_of_the_thread_is_put_back(fake: FakeCuda) -> None:
    outer = Cuda(0, fake.path)
    Cuda(0, fake.path).close()
    assert fake.has_context
    outer.allocate(1)
    outer.close()
    assert fake.live() == {}


def test_a_thread_without_a_context_makes_one_current(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    fake.take_context()
    with pytest.raises(HardwareError, match="cuMemAlloc_v2 failed: CUDA_ERROR_INVALID_CONTEXT"):
        cuda.allocate(1)
    thread = threading.Thread(target=cuda.activate)
    thread.start()
    thread.join()
    cuda.allocate(1)
    fake.take_context()
    cuda.close()
    assert fake.live() == {}


@pytest.mark.parametrize("call", ["cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate"])
def test_opening_that_fails_half_way_leaves_nothing(fake: FakeCuda, call: str) -> None:
    fake.fail(call, LAUNCH_FAILED)
    with pytest.raises(HardwareError, match=f"{call} failed: CUDA_ERROR_LAUNCH_FAILED"):
        Cuda(0, fake.path)
    assert fake.live() == {}
    assert not fake.has_context


def test_a_full_gpu_is_refused_by_the_system(fake: FakeCuda) -> None:
    fake.limit(1000)
    cuda = Cuda(0, fake.path)
    first = cuda.allocate(600)
    with pytest.raises(SystemRefusedError, match="memory is full"):
        cuda.allocate(600)
    cuda.free(first)
    cuda.allocate(600)
    fake.fail("cuMemHostAlloc", OUT_OF_MEMORY)
    with pytest.raises(SystemRefusedError, match="memory is full"):
        cuda.allocate_host(1)
    cuda.close()
    assert fake.live() == {}


def test_an_error_has_its_name(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    for code, name in ((LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"), (NO_NAME, f"code {NO_NAME}")):
        fake.fail("cuStreamSynchronize", code)
        with pytest.raises(HardwareError, match=f"cuStreamSynchronize failed: {name}"):
            cuda.wait()
    cuda.close()


def test_events_measure_the_stream(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    start, end = cuda.event(), cuda.event()
    cuda.record(start)
    time.sleep(0.02)
    cuda.record(end)
    cuda.wait()
    assert 19 < cuda.elapsed_ms(start, end) < 200
    cuda.close()
    assert fake.live() == {}


@pytest.mark.parametrize("macros", [(), ("BEFORE_CUDA_11_4",)])
def test_a_graph_runs_what_was_captured(macros: tuple[str, ...]) -> None:
    fake = FakeCuda(*macros)
    cuda = Cuda(0, fake.path)
    done: list[str] = []
    graph = cuda.capture(lambda: fake.enqueue(cuda.stream, lambda: done.append("work")))
    assert done == []
    cuda.launch(graph)
    cuda.launch(graph)
    assert done == ["work", "work"]
    assert fake.live()["graph_exec"] == 1
    assert "graph" not in fake.live()
    cuda.free_graph(graph)
    cuda.close()
    assert fake.live() == {}


def test_what_cannot_be_captured(fake: FakeCuda) -> None:
    cuda = Cuda(0, fake.path)
    with pytest.raises(
        HardwareError, match="cuStreamSynchronize failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    ):
        cuda.capture(cuda.wait)
    fake.fail("cuGraphInstantiateWithFlags", LAUNCH_FAILED)
    with pytest.raises(HardwareError, match="cuGraphInstantiateWithFlags failed"):
        cuda.capture(lambda: None)
    cuda.wait()  # the stream is as good as before
    cuda.close()
    assert fake.live() == {}


def test_memory_info(fake: FakeCuda) -> None:
    fake.limit(1 << 20)
    assert memory_info(0, fake.path) == (1 << 20, 1 << 20)
    cuda = Cuda(0, fake.path)
    cuda.allocate(1 << 18)
    assert memory_info(0, fake.path) == (3 << 18, 1 << 20)
    cuda.wait()  # the context of the thread is still current
    cuda.close()
    fake.fail("cuMemGetInfo_v2", LAUNCH_FAILED)
    with pytest.raises(HardwareError, match="cuMemGetInfo_v2 failed"):
        memory_info(0, fake.path)
    assert fake.live() == {}


def test_a_call_that_the_driver_lacks(fake: FakeCuda) -> None:
    with pytest.raises(HardwareError, match="the NVIDIA driver has no cuNotThere") as error:
        Driver(fake.path).call("cuNotThere")
    assert error.value.hint == "install a newer driver"
