"""TensorRT as the builder sees it, for every version whose names are known, without a GPU.

Each object is a `Strict` one: a name that the version lacks raises, whatever the builder wants of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.runtime.strict import Strict, module, table

LAYERS = (
    "Layers:\nName: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1], "
    "Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [], Outputs: [], Metadata: "
)


@dataclass
class Heard:
    """What the builder was asked for."""

    network_flags: int = -1
    flags: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)
    pools: dict[str, int] = field(default_factory=dict)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    capabilities: dict[int, str] = field(default_factory=dict)
    cache_in: list[bytes] = field(default_factory=list)
    parsed: str = ""
    config: Any = None
    layers: list[Any] = field(default_factory=list)
    monitored: list[str] = field(default_factory=list)


@dataclass
class Behaviour:
    """How the stand-in answers; `errors` are (node, operator, reason) of the parser."""

    inputs: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (-1, 8)})
    plan: bytes | None = b"plan"
    errors: tuple[tuple[str, str, str], ...] = ()
    log: tuple[tuple[str, str], ...] = (("VERBOSE", LAYERS),)
    dla_cores: int = 2
    layers: tuple[str, ...] = ("conv",)
    takes_cache: bool = True


def tensorrt(version: str, behaviour: Behaviour | None = None) -> tuple[SimpleNamespace, Heard]:
    """The module of a version, and what it will have heard."""
    trt = _Module(version, behaviour or Behaviour())
    return trt.made(), trt.heard


class _Module:
    def __init__(self, version: str, behaviour: Behaviour) -> None:
        self.version, self.behaviour, self.heard = version, behaviour, Heard()
        self.names: dict[str, dict[Any, str]] = {}
        self.logger: Any = None

    def made(self) -> SimpleNamespace:
        logger = type("ILogger", (), dict(zip(_SEVERITIES, range(5), strict=True)))
        classes: dict[str, Any] = {"Builder": self.builder, "OnnxParser": self.parser, "ILogger": logger}
        if "IProgressMonitor" in table(self.version):
            classes["IProgressMonitor"] = type("IProgressMonitor", (), {})
        self.module = module(self.version, **classes)
        return self.module

    def strict(self, name: str, /, **behaviour: Any) -> Strict:
        """An object of a class, with those of the given names that the version's class has."""
        known = set(table(self.version)[name]["attributes"])
        return Strict(self.version, name, {key: value for key, value in behaviour.items() if key in known})

    def name_of(self, enumeration: str, value: Any) -> str:
        """The member's name: the builder gives values."""
        found = vars(getattr(self.module, enumeration)).items()
        return next(str(name) for name, number in found if number == value)

    def builder(self, logger: Any) -> Strict:
        self.logger = logger
        return self.strict(
            "Builder",
            create_network=self.create_network,
            create_builder_config=self.create_config,
            create_optimization_profile=self.create_profile,
            build_serialized_network=self.build,
            num_DLA_cores=self.behaviour.dla_cores,
        )

    def create_network(self, flags: int) -> Strict:
        self.heard.network_flags = flags
        tensors = [
            self.strict("ITensor", name=name, shape=shape) for name, shape in self.behaviour.inputs.items()
        ]
        layers = [
            self.strict("ILayer", name=name, num_outputs=1, set_output_type=lambda place, kind: None)
            for name in self.behaviour.layers
        ]
        self.heard.layers = layers
        return self.strict(
            "INetworkDefinition",
            num_inputs=len(tensors),
            get_input=tensors.__getitem__,
            num_outputs=1,
            num_layers=len(layers),
            get_layer=layers.__getitem__,
        )

    def create_profile(self) -> Strict:
        shapes: dict[str, Any] = {}
        profile = self.strict("IOptimizationProfile", set_shape=lambda name, *at: shapes.update({name: at}))
        object.__setattr__(profile, "shapes", shapes)
        return profile

    def create_config(self) -> Strict:
        heard = self.heard
        cache = self.strict("ITimingCache", serialize=lambda: b"times")

        def flag(value: int) -> str:
            return self.name_of("BuilderFlag", value)

        def pool(kind: int, size: int) -> None:
            heard.pools[self.name_of("MemoryPoolType", kind)] = size

        def add(profile: Any) -> int:
            heard.profiles.append(profile.shapes)
            return len(heard.profiles) - 1

        def capability(value: int, place: int) -> bool:
            heard.capabilities[place] = self.name_of("ComputeCapability", value)
            return True

        def make_cache(content: bytes) -> Any:
            heard.cache_in.append(content)
            return cache

        config = self.strict(
            "IBuilderConfig",
            set_memory_pool_limit=pool,
            set_flag=lambda value: heard.flags.add(flag(value)),
            clear_flag=lambda value: heard.cleared.add(flag(value)),
            add_optimization_profile=add,
            set_compute_capability=capability,
            create_timing_cache=make_cache,
            set_timing_cache=lambda _, mismatch: self.behaviour.takes_cache or heard.cache_in[-1] == b"",
            get_timing_cache=lambda: cache,
        )
        heard.config = config
        return config

    def parser(self, network: Any, logger: Any) -> Strict:
        errors = [self.error(*one) for one in self.behaviour.errors]

        def parse(path: str) -> bool:
            self.heard.parsed = path
            for name, operator, _ in self.behaviour.errors[:1]:
                logger.log(self.module.ILogger.VERBOSE, f"Parsing node: {name} [{operator}]")
            return not errors

        return self.strict(
            "OnnxParser", parse_from_file=parse, num_errors=len(errors), get_error=errors.__getitem__
        )

    def error(self, node: str, operator: str, reason: str) -> Strict:
        code = "MODEL_DESERIALIZE_FAILED" if not operator else "UNSUPPORTED_NODE"
        return self.strict(
            "ParserError",
            code=lambda: getattr(self.module.ErrorCode, code),
            desc=lambda: reason,
            node=lambda: 3,
            node_name=lambda: node,
            node_operator=lambda: operator,
            local_function_stack=lambda: None,
        )

    def build(self, network: Any, config: Strict) -> bytes | None:
        for severity, message in self.behaviour.log:
            self.logger.log(getattr(self.module.ILogger, severity), message)
        monitor = config.set_to.get("progress_monitor")
        if monitor is not None and not self.monitor(monitor):
            return None
        return self.behaviour.plan

    def monitor(self, monitor: Any) -> bool:
        monitor.phase_start("Timing", None, 2)
        goes_on = all(monitor.step_complete("Timing", step) for step in range(2))
        monitor.phase_finish("Timing")
        self.heard.monitored.append("Timing")
        return goes_on


_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
