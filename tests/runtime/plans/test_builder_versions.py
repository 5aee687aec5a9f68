"""The real builder against the names of every version: one that a version lacks raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.runtime.errors import BadFileError, SystemRefusedError, UnsupportedError, UsageError
from edgekit.runtime.plans.builder import build
from edgekit.runtime.plans.features import features_of
from edgekit.runtime.plans.request import BuildRequest, Variant
from edgekit.runtime.probe import Gpu
from tests.runtime.plans.conftest import GTX
from tests.runtime.plans.standin import Behaviour, tensorrt
from tests.runtime.strict import VERSIONS, Strict, table

RTX = tuple(version for version in VERSIONS if version.startswith("rtx"))
TENSORRT = tuple(version for version in VERSIONS if version not in RTX)
BOTH = (Variant("model.onnx", "weak"), Variant("strong.onnx", "strong"))
PROFILE = {"x": ((1, 8), (4, 8), (16, 8))}
FLAGS = {"fp32": set(), "fp16": {"FP16"}, "bf16": {"BF16"}, "int8": {"INT8", "FP16"}}
STRONG = {
    "8.5.3.1": False,
    "8.6.0": False,
    "10.3.0": False,
    "10.7.0": False,
    "10.13.3.9": True,
    "10.16.1.11": True,
    "11.0.0.114": True,
    "11.4.0.106": True,
    "rtx-1.7.1": True,
}

InstallGpu = Callable[[Gpu | None], None]


def asked(precision: str = "fp32", **changes: Any) -> BuildRequest:
    return replace(BuildRequest(variants=BOTH, precision=precision, profiles=(PROFILE,)), **changes)


@pytest.fixture(autouse=True)
def here(gpu: InstallGpu) -> None:
    gpu(GTX)


def test_every_known_version_is_judged() -> None:
    assert set(STRONG) == set(VERSIONS)
    assert len(VERSIONS) == 9


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", FLAGS)
@pytest.mark.parametrize("typing", ["strong", "weak"])
def test_each_typing_alone(version: str, precision: str, typing: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    request = asked(precision, variants=tuple(one for one in BOTH if one.typing == typing))
    members = set(table(version)["BuilderFlag"]["members"])
    possible = STRONG[version] if typing == "strong" else {"FP16", *FLAGS[precision]} <= members
    if not possible:
        with pytest.raises(UnsupportedError):
            build(trt, request, root)
        return
    built = build(trt, request, root)
    assert (built.plan, built.typing, built.variant.typing) == (b"plan", typing, typing)
    assert heard.flags == (FLAGS[precision] if typing == "weak" else set())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_variant_and_the_network_are_those_of_the_version(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    built = build(trt, asked(), root)
    typing = "strong" if STRONG[version] else "weak"
    assert built.typing == typing
    assert Path(heard.parsed).name == ("strong.onnx" if STRONG[version] else "model.onnx")
    members = table(version)["NetworkDefinitionCreationFlag"]["members"]
    wanted = {"EXPLICIT_BATCH"} & set(members) | ({"STRONGLY_TYPED"} if STRONG[version] else set())
    numbers = vars(trt.NetworkDefinitionCreationFlag)
    assert {name for name in members if heard.network_flags >> numbers[name] & 1} == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_what_every_version_is_told(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    narrow = {"x": ((1, 8), (1, 8), (2, 8))}
    built = build(trt, asked(profiles=(narrow, PROFILE), workspace_bytes=99 << 20), root)
    assert heard.cleared == {"TF32"}
    assert heard.pools == {"WORKSPACE": 99 << 20}
    assert heard.profiles == [narrow, PROFILE]
    assert heard.config.set_to["profiling_verbosity"] == trt.ProfilingVerbosity.DETAILED
    assert [(layer.name, layer.precision) for layer in built.layers] == [("conv", "int8")]
    assert built.notes == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_cleared_for_fp32_alone(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    build(trt, asked("int8"), root)
    assert heard.cleared == set()


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_where_there_is_a_monitor(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    told: list[tuple[str, int, int]] = []
    build(trt, asked(), root, lambda *one: told.append(one))
    assert told[0] == (f"building with {features_of(trt).title}", 0, 0)
    watched = [("Timing", 0, 2), ("Timing", 1, 2), ("Timing", 2, 2), ("Timing", 2, 2)]
    assert told[1:] == (watched if "IProgressMonitor" in table(version) else [])
    assert bool(heard.monitored) == ("IProgressMonitor" in table(version))


@pytest.mark.parametrize("version", [name for name in VERSIONS if "IProgressMonitor" in table(name)])
def test_whoever_shows_progress_can_stop_the_build(version: str, root: Path) -> None:
    trt, _ = tensorrt(version)

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(trt, asked(), root, stop)


@pytest.mark.parametrize("version", VERSIONS)
def test_dla(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    build(trt, asked("fp16", dla_core=1), root)
    set_to = heard.config.set_to
    assert (set_to["default_device_type"], set_to["DLA_core"]) == (trt.DeviceType.DLA, 1)
    assert "GPU_FALLBACK" in heard.flags
    with pytest.raises(UsageError, match="no DLA core 2: this device has 2"):
        build(trt, asked("int8", dla_core=2), root)
    with pytest.raises(UnsupportedError, match="does not compute in fp32"):
        build(trt, asked("fp32", dla_core=0), root)


def test_a_device_without_dla(root: Path) -> None:
    trt, _ = tensorrt("10.3.0", Behaviour(dla_cores=0))
    with pytest.raises(UsageError, match="this device has none"):
        build(trt, asked("fp16", dla_core=0), root)


@pytest.mark.parametrize("version", VERSIONS)
def test_plans_for_other_gpus_and_versions(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    if "HardwareCompatibilityLevel" in table(version) and version not in RTX:
        build(trt, asked(hardware_compatible=True), root)
        ampere = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        assert heard.config.set_to["hardware_compatibility_level"] == ampere
    else:
        with pytest.raises(UnsupportedError, match="other kinds of GPU"):
            build(trt, asked(hardware_compatible=True), root)
    if "VERSION_COMPATIBLE" in table(version)["BuilderFlag"]["members"]:
        build(trt, asked(version_compatible=True), root)
        assert "VERSION_COMPATIBLE" in heard.flags
    else:
        with pytest.raises(UnsupportedError, match="that other versions load"):
            build(trt, asked(version_compatible=True), root)


@pytest.mark.parametrize("version", VERSIONS)
def test_timing_cache(version: str, root: Path) -> None:
    trt, heard = tensorrt(version)
    built = build(trt, asked(), root, timing_cache=b"before")
    assert built.timing_cache == (None if version in RTX else b"times")
    assert heard.cache_in == ([] if version in RTX else [b"before"])
    empty, heard = tensorrt(version)
    build(empty, asked(), root)
    assert heard.cache_in == ([] if version in RTX else [b""])


def test_a_timing_cache_of_another_build_is_said_and_left(root: Path) -> None:
    trt, heard = tensorrt("10.3.0", Behaviour(takes_cache=False))
    built = build(trt, asked(), root, timing_cache=b"of another GPU")
    assert heard.cache_in == [b"of another GPU", b""]
    assert "was not taken" in built.notes[0]


@pytest.mark.parametrize("version", RTX)
def test_compute_capabilities_need_no_gpu(version: str, root: Path, gpu: InstallGpu) -> None:
    gpu(None)
    trt, heard = tensorrt(version)
    built = build(trt, asked(compute_capabilities=("8.6", "12.0", "8.6")), root)
    assert heard.capabilities == {0: "SM86", 1: "SM120"}
    assert heard.config.set_to["num_compute_capabilities"] == 2
    assert built.timing_cache is None
    with pytest.raises(UnsupportedError, match=r"capability 8\.7") as refused:
        build(trt, asked(compute_capabilities=("8.7",)), root)
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1; Jetson (8.7, 11.0) is not among them" in refused.value.hint


@pytest.mark.parametrize("version", TENSORRT)
def test_tensorrt_takes_no_compute_capability(version: str, root: Path) -> None:
    trt, _ = tensorrt(version)
    with pytest.raises(UnsupportedError, match="for the GPU that is here"):
        build(trt, asked(compute_capabilities=("8.6",)), root)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_node_that_is_refused_is_named(version: str, root: Path) -> None:
    errors = (("layer/bad", "Frobnicate", 'creator && "Plugin not found"'), ("other", "Op", "why"))
    trt, _ = tensorrt(version, Behaviour(errors=errors))
    with pytest.raises(UnsupportedError) as refused:
        build(trt, asked(), root)
    assert "node 'layer/bad' (Frobnicate) of " in refused.value.message
    assert refused.value.message.endswith(": Plugin not found (and 1 more)")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_that_is_no_onnx(version: str, root: Path) -> None:
    trt, _ = tensorrt(version, Behaviour(errors=(("", "", "Failed to parse the ONNX model."),)))
    with pytest.raises(BadFileError, match=r"is not an ONNX model .* can read: Failed to parse"):
        build(trt, asked(), root)


OLD_ERROR = "4: [network.cpp::validate::2671] Error Code 4: Internal Error (x has no type)"
NEW_ERROR = (
    "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (x has no type. In f at /a/b.cpp:9)"
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("said", [OLD_ERROR, NEW_ERROR])
def test_no_plan_is_told_by_the_last_error(version: str, said: str, root: Path) -> None:
    log = (("ERROR", "an earlier one"), ("ERROR", said))
    trt, _ = tensorrt(version, Behaviour(plan=None, log=log))
    with pytest.raises(UnsupportedError, match=r"built no plan of \w+\.onnx: x has no type$"):
        build(trt, asked(), root)


@pytest.mark.parametrize("version", VERSIONS)
def test_lack_of_memory_is_the_systems_refusal(version: str, root: Path) -> None:
    skipped = ("WARNING", "Skipping tactic 0x1 due to insufficient memory on requested size of 9 bytes")
    none_left = (
        "ERROR",
        "10: [x.cpp::y::1] Error Code 10: Internal Error (Could not find any implementation)",
    )
    for log in ((skipped, none_left), (("ERROR", "2: Error Code 2: OutOfMemory (Out of memory)"),)):
        trt, _ = tensorrt(version, Behaviour(plan=None, log=log))
        with pytest.raises(SystemRefusedError, match="ran out of memory"):
            build(trt, asked(), root)
    trt, _ = tensorrt(version, Behaviour(plan=None, log=(skipped, ("ERROR", "something else"))))
    with pytest.raises(UnsupportedError, match="something else"):
        build(trt, asked(), root)


NO_ROOM = (
    "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any "
    "implementation for node conv due to insufficient workspace. See verbose log for requested sizes.)",
    "Error Code 4: Internal Error (plugin node p requires 9 bytes of scratch space, but only 1 is available. "
    "Try increasing the workspace size with IBuilderConfig::setMemoryPoolLimit().)",
    "Error Code 1: Myelin (no tactics to implement the operation within workspace limit.)",
)


@pytest.mark.parametrize("said", NO_ROOM)
def test_lack_of_workspace_is_cured_by_more_of_it(said: str, root: Path) -> None:
    trt, _ = tensorrt("10.3.0", Behaviour(plan=None, log=(("ERROR", said),)))
    with pytest.raises(SystemRefusedError, match="in a workspace of 99 MB: ") as refused:
        build(trt, asked(workspace_bytes=99 << 20), root)
    assert refused.value.hint.startswith("allow more workspace")


def test_a_warning_about_workspace_is_not_why_a_build_failed(root: Path) -> None:
    warned = ("WARNING", "Some tactics do not have sufficient workspace memory to run.")
    trt, _ = tensorrt("10.3.0", Behaviour(plan=None, log=(warned, ("ERROR", "something else"))))
    with pytest.raises(UnsupportedError, match="something else"):
        build(trt, asked(), root)


def test_what_a_form_lacks_is_named(root: Path) -> None:
    trt, _ = tensorrt("8.5.3.1")
    lacking = (
        Variant("model.onnx", "weak", oldest="10.0"),
        Variant("model.onnx", "weak", needs=("INormalizationLayer", "DataType.BF16")),
    )
    with pytest.raises(UnsupportedError) as refused:
        build(trt, asked(variants=lacking), root)
    assert (
        "needs TensorRT 10.0; model.onnx needs INormalizationLayer and DataType.BF16" in refused.value.message
    )
    newer, _ = tensorrt("10.3.0")
    assert build(newer, asked(variants=lacking), root).variant == lacking[0]


def test_bf16_on_tensorrt_8_says_what_to_do(root: Path) -> None:
    trt, _ = tensorrt("8.5.3.1")
    with pytest.raises(UnsupportedError, match=r"TensorRT 8\.5\.3\.1 has no bf16") as refused:
        build(trt, asked("bf16"), root)
    assert "fp16" in refused.value.hint


@pytest.mark.parametrize(
    ("profiles", "fault"),
    [
        ((), "'x' is dynamic and has no profile"),
        (({"y": PROFILE["x"]},), "no input 'y'"),
        (({"x": ((1,), (1,), (1,))},), "has 2 dimensions, not 1"),
        (({"x": ((1, 4), (4, 8), (8, 8))},), "fixed size 8 at axis 1"),
        (({"x": ((2, 8), (1, 8), (4, 8))},), "opt 1 at axis 0 is outside 2 to 4"),
    ],
)
def test_a_profile_that_does_not_fit_is_said_before_tensorrt_sees_it(
    profiles: Any, fault: str, root: Path
) -> None:
    trt, heard = tensorrt("8.5.3.1")
    with pytest.raises(UsageError, match=fault):
        build(trt, asked(profiles=profiles), root)
    assert heard.profiles == []


def test_a_network_of_fixed_sizes_needs_no_profile(root: Path) -> None:
    trt, heard = tensorrt("8.5.3.1", Behaviour(inputs={"x": (1, 8)}))
    build(trt, asked(profiles=()), root)
    assert heard.profiles == []


def test_a_graph_outside_the_folder_is_not_read(root: Path) -> None:
    trt, heard = tensorrt("10.3.0")
    for file in ("../elsewhere.onnx", "missing.onnx"):
        with pytest.raises(BadFileError, match="has no graph"):
            build(trt, asked(variants=(Variant(file),)), root)
    assert not heard.parsed


def test_the_stand_in_does_catch_a_name_that_a_version_lacks(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Without this, all of the above would prove nothing."""
    trt, _ = tensorrt("8.5.3.1")
    monkeypatch.setattr(
        "edgekit.runtime.plans.builder._network_flags",
        lambda job: 1 << job.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED,
    )
    with pytest.raises(AttributeError, match="STRONGLY_TYPED"):
        build(trt, asked(), root)
    config = Strict("8.5.3.1", "IBuilderConfig", {})
    with pytest.raises(AttributeError, match="progress_monitor"):
        config.progress_monitor = object()


@pytest.mark.parametrize("version", VERSIONS)
def test_marked_layers_stay_in_float_where_flags_would_round_them(version: str, root: Path) -> None:
    trt, heard = tensorrt(version, Behaviour(layers=("conv", "norm/edgekit.fp32/Sqrt")))
    weak = not STRONG[version]
    build(trt, asked("fp16"), root)
    assert heard.layers[0].set_to == {}
    assert heard.layers[1].set_to == ({"precision": trt.DataType.FLOAT} if weak else {})
    assert ("OBEY_PRECISION_CONSTRAINTS" in heard.flags) == weak
