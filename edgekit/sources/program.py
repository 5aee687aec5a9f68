"""`net.pt2`: a program that torch.export has written. Files of other kinds are refused with the way out."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import BadFileError, EdgekitError, UnsupportedError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import fx

    from edgekit.spec import Found, Own, Sample

_KERAS = (".keras", ".h5", ".hdf5", ".pb", ".tflite")
_TORCH = (".pt", ".pth", ".ts", ".torchscript", ".jit", ".bin", ".ckpt", ".pt2")


def takes(source: str) -> bool:
    """Whether `source` is the path of a `.pt2` file."""
    return source.lower().endswith(".pt2")


def load(own: Own, weights: Path | None, samples: Sequence[Sample]) -> Found:
    """The program as a module; its inputs, ranges and outputs are its own unless `--input` says otherwise.

    Raises:
        BadFileError: missing, truncated, or more in it than operators and plain tensors.
        UnsupportedError: exported in training mode or in half precision, or with operators of the user's own.
        UsageError: weights for a file that has its own, or inputs that are not the program's.
    """
    from edgekit.sources._adapter import adapt
    from edgekit.sources._archive import read_program
    from edgekit.sources._binding import Call
    from edgekit.sources._found import found, in_order
    from edgekit.sources._layers import restore_layers
    from edgekit.sources._signature import input_names, inputs_of, output_names

    path = own.folder / own.source
    if weights is not None:
        raise UsageError(f"{path} has its weights in it", "leave --weights out")
    if not path.is_file():
        raise BadFileError(f"{path} does not exist", "check the path")
    program = read_program(path)
    _refuse_training(path, program)
    module = _module(program)
    restore_layers(module)
    asked, notes = inputs_of(own, path, program)
    inputs = in_order(asked, own.states)
    places = {spec.name: place for place, spec in enumerate(inputs)}
    call = Call(tuple(places[name] for name in input_names(path, program)))
    adapter = adapt(module, call, output_names(program), len(inputs))
    return found(adapter, inputs, own.states, notes)


def refusal(source: str, folder: Path = Path()) -> EdgekitError | None:
    """Why a file or folder of another framework is no MODEL, and the way out; None if it may be one."""
    path = folder / source
    suffix = path.suffix.lower()
    if suffix in _KERAS or (path / "saved_model.pb").is_file():
        return UnsupportedError(
            f"{source} is a Keras or TensorFlow model",
            "write it as ONNX (model.export('net.onnx', format='onnx'), or tf2onnx) and give that file",
        )
    if suffix == ".safetensors":
        return _weights_alone(source)
    return _torch_refusal(source, path) if suffix in _TORCH and path.is_file() else None


def _torch_refusal(source: str, path: Path) -> EdgekitError | None:
    """TorchScript and weights look alike from outside: both are zip files that torch wrote."""
    names = _names_in(path)
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return UnsupportedError(
            f"{source} is TorchScript, whose Python code is gone",
            "give the network it was made from (module:function), or save that with torch.export.save "
            "(.pt2) or torch.onnx.export (.onnx)",
        )
    if takes(source):
        return None
    if "archive_format" in names:
        return UsageError(f"{source} is a torch.export program", f"name it {path.with_suffix('.pt2').name}")
    return _weights_alone(source)


def _names_in(path: Path) -> list[str]:
    """The members of a zip file below its one folder; empty if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return []


def _weights_alone(source: str) -> EdgekitError:
    return UsageError(
        f"{source} holds weights or a pickle, not a network",
        f"name the function that makes the network: edgekit VERB module:function --weights {source}",
    )


def _refuse_training(path: Path, program: torch.export.ExportedProgram) -> None:
    import torch

    trained = [node.name for node in program.graph.nodes if _trains(node)]
    if trained:
        raise UnsupportedError(
            f"{path}: the program was exported in training mode ({trained[0]})",
            "call network.eval() before torch.export.export",
        )
    changed = program.graph_signature.buffers_to_mutate
    if changed:
        raise UnsupportedError(
            f"{path}: the program changes {min(changed.values())} when it runs",
            "make the state an input and an output of the network",
        )
    for name, tensor in program.state_dict.items():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise UnsupportedError(
                f"{path}: {name} is {str(tensor.dtype)[6:]}, and the program is written for that type",
                "export the network in float32: network.float() before torch.export.export",
            )


def _trains(node: fx.Node) -> bool:
    """Whether an operator that has a switch for training has it on."""
    schema = getattr(node.target, "_schema", None)
    switches = [each.name in ("train", "training") for each in schema.arguments] if schema else []
    return any(on and value is True for on, value in zip(switches, node.args, strict=False))


def _module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module: flat tensors in, a flat tuple out, every size admitted.

    Its own checks of sizes are left out, for the ranges of the inputs say the same. Its train and eval
    only raise; nothing in it depends on them.
    """
    import torch

    module: Any = program.module(check_guards=False)
    for name in ("train", "eval", "_in_spec", "_out_spec"):
        module.__dict__.pop(name, None)
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks_with_kwargs.clear()
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    return module  # type: ignore[no-any-return]
