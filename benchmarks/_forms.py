"""One network in one form: made, and run on the held-out samples, in a process that may crash alone.

    python -m benchmarks._forms FORM NETWORK SCRATCH SECONDS

The network lies prepared in SCRATCH/NETWORK, what is made goes to SCRATCH/FORM.

A peer gets what its documentation's first example gives it: the float graph and the calibration samples.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.engines import usable_cores
from edgekit.runtime.manifest import Manifest, TensorSpec, hashes, read_manifest, write_manifest
from edgekit.runtime.proof import load_pairs, save_pairs
from edgekit.runtime.session import open_runner

ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True)
class Form:
    """Who makes it of what; `make(folder, out)` writes the engine and gives its precision beside int8."""

    engine: str
    label: str
    make: Callable[[Path, Path], str] | None = None
    needs: str = ""

    @property
    def ours(self) -> bool:
        """Whether edgekit's search makes it."""
        return self.make is None


def _as_it_is(folder: Path, out: Path) -> str:
    (out / "model.onnx").write_bytes((folder / "float.onnx").read_bytes())
    return "fp32"


def _dynamic(folder: Path, out: Path) -> str:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_preprocessed(folder, out), out / "model.onnx")
    return "fp32"


def _static(folder: Path, out: Path) -> str:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(load_pairs(folder / "calibration.npz")[0])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    quantize_static(_preprocessed(folder, out), out / "model.onnx", Reader())
    return "fp32"


def _preprocessed(folder: Path, out: Path) -> Path:
    """The graph after the step that ONNX Runtime's documentation wants first, where that works."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    made = out.with_suffix(".pre.onnx")
    try:
        with chdir(out.parent):  # it leaves files in the current folder
            quant_pre_process(folder / "float.onnx", made)
    except Exception:  # noqa: BLE001  it raises bare Exceptions; without it is how most people quantize
        return folder / "float.onnx"
    return made


def _converted(precision: str) -> Callable[[Path, Path], str]:
    def make(folder: Path, out: Path) -> str:
        import openvino

        model = openvino.convert_model(folder / "float.onnx")
        openvino.save_model(model, out / "model.xml", compress_to_fp16=False)
        return precision

    return make


def _nncf(**options: str) -> Callable[[Path, Path], str]:
    """`nncf.quantize` with its default preset; what stays float runs as OpenVINO does it unasked."""

    def make(folder: Path, out: Path) -> str:
        import nncf
        import openvino

        chosen = {key: getattr(nncf.ModelType, value) for key, value in options.items()}
        model = openvino.Core().read_model(folder / "float.onnx")
        data = nncf.Dataset(load_pairs(folder / "calibration.npz")[0])
        openvino.save_model(nncf.quantize(model, data, **chosen), out / "model.xml", compress_to_fp16=False)
        return unasked()

    return make


def unasked() -> str:
    """The precision that OpenVINO computes in where nobody asks for one."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


FORMS = {
    "ort-fp32": Form(engine="onnxruntime", label="fp32", make=_as_it_is),
    "ort-dynamic": Form(engine="onnxruntime", label="quantize_dynamic", make=_dynamic),
    "ort-static": Form(engine="onnxruntime", label="quantize_static", make=_static),
    "ort-edgekit": Form(engine="onnxruntime", label="**edgekit**"),
    "ov-fp32": Form(engine="openvino", label="fp32", make=_converted("fp32")),
    "ov-bf16": Form(engine="openvino", label="bf16", make=_converted("bf16")),
    "ov-nncf": Form(engine="openvino", label="nncf", make=_nncf(), needs="nncf"),
    "ov-nncf-transformer": Form(
        engine="openvino", label="nncf, TRANSFORMER", make=_nncf(model_type="TRANSFORMER"), needs="nncf"
    ),
    "ov-edgekit": Form(engine="openvino", label="**edgekit**"),
}


def _peer(form: Form, folder: Path, out: Path) -> None:
    """A folder that opens as a bundle."""
    if form.make is None:
        raise TypeError("edgekit is no peer")
    out.mkdir()
    precision = form.make(folder, out)
    file = next(out.glob("model.[ox][nm][nl]*")).name
    inputs, outputs = _tensors(folder)
    manifest = Manifest(
        model=folder.name,
        target=form.engine,
        precision=precision,
        device="CPU",
        state="built",
        passed=None,
        engine={"kind": form.engine, "file": file, "precision": precision, "threads": usable_cores()},
        inputs=inputs,
        outputs=outputs,
        files=hashes(out),
    )
    write_manifest(manifest, out)


def _tensors(folder: Path) -> Iterator[tuple[TensorSpec, ...]]:
    """Inputs and outputs of the float graph."""
    import onnx

    graph = onnx.load(folder / "float.onnx").graph
    for values in (graph.input, graph.output):
        yield tuple(
            TensorSpec(
                value.name,
                tuple(dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim),
                str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            )
            for value in values
        )


def _searched(form: Form, network: str, seconds: float, out: Path) -> Mapping[str, Any]:
    """What `edgekit compile NETWORK --precision int8 --max-error 5%` makes, but for its proof."""
    from benchmarks._networks import SUBJECTS, recipe_of
    from edgekit import pipeline

    out.mkdir()
    with chdir(out.parent / network):
        _, report = pipeline.make(recipe_of(SUBJECTS[network], form.engine, seconds), out, proofs=())
    told = report.quantization or {}
    return {"verdict": told.get("verdict", ""), "blame": report.blame, "plan": dict(report.plan)}


def main() -> int:
    """Make it, run it, and leave outputs and what is told of it beside it; an error is told too."""
    name, network, scratch, seconds = sys.argv[1:]
    form, folder, out = FORMS[name], Path(scratch, network), Path(scratch, name)
    told: dict[str, Any] = {}
    try:
        if form.ours:
            told.update(_searched(form, network, float(seconds), out))
        else:
            _peer(form, folder, out)
        feeds, _ = load_pairs(folder / "held_out.npz")
        with open_runner(out, read_manifest(out)) as runner:
            save_pairs(out.with_suffix(".npz"), (), [runner.infer(feed) for feed in feeds])
            told["layers"] = dict(Counter(layer.precision for layer in runner.layers()))
    except Exception as error:  # noqa: BLE001  peers raise anything; it becomes the row's reason
        told["error"] = f"{type(error).__name__}: {reason(error, out.parent)}"
    out.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    return 1 if "error" in told else 0


def reason(error: BaseException, scratch: Path, most: int = 160) -> str:
    """The end of a message, which with these libraries says what is wrong, without the scratch folder."""
    text = " ".join(str(error).replace(f"{scratch}/", "").split())
    return text if len(text) <= most else f"... {text[-most:]}"


if __name__ == "__main__":
    sys.exit(main())
