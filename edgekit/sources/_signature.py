"""What a torch.export program takes and returns: names, sizes and ranges, as the file has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.declare import DEFAULT_RANGE, DEFAULT_RANGES, told_input
from edgekit.runtime.errors import UnsupportedError, UsageError
from edgekit.runtime.manifest import TensorSpec
from edgekit.sources._adapter import TOP
from edgekit.spec import Own

Program = torch.export.ExportedProgram


def input_names(path: Path, program: Program) -> list[str]:
    """The tensors that the program takes, in its order.

    Raises:
        UnsupportedError: it takes something else than tensors.
    """
    nodes = _placeholders(program)
    for node in nodes:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            raise UnsupportedError(
                f"{path}: the input {node.name!r} is not a tensor", "export it with tensors as inputs"
            )
    return [node.name for node in nodes]


def output_names(program: Program) -> tuple[str, ...]:
    """Keys of dicts, `output.0` for the parts of a tuple: one name for each flat output."""
    spec = program.call_spec.out_spec
    tree = pytree.tree_unflatten([*range(spec.num_leaves)], spec)
    named = []
    for keys, _ in pytree.tree_flatten_with_path(tree)[0]:
        words = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in keys]
        speaks = bool(keys) and isinstance(keys[0], pytree.MappingKey)
        named.append(".".join(words if speaks else [TOP, *words]))
    return tuple(named)


def inputs_of(own: Own, path: Path, program: Program) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """The program's inputs, or the user's within them, and what is to be said of them.

    Raises:
        UsageError: other names, types or sizes than the program has, or a range where it has steps.
    """
    written = _written(program)
    asked = {spec.name: spec for spec in own.inputs or written}
    names = [spec.name for spec in written]
    if set(asked) != set(names):
        raise UsageError(
            f"{path} takes {', '.join(names)}, not {', '.join(asked)}", "name the inputs as the program does"
        )
    for spec in written:
        _refuse_other_sizes(path, spec, asked[spec.name])
    _refuse_steps(path, program, asked)
    notes = [f"input {told_input(spec)} is the program's own" for spec in written if not own.inputs]
    return tuple(asked[name] for name in names), tuple(notes)


def _placeholders(program: Program) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _written(program: Program) -> tuple[TensorSpec, ...]:
    """Shapes and ranges of the graph. Its dimensions lost their names in the file: they get new ones."""
    symbols: dict[str, str] = {}
    specs = []
    for node in _placeholders(program):
        shape: list[int | str] = []
        ranges: dict[str, tuple[int, int]] = {}
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            fresh = "batch" if axis == 0 and "batch" not in symbols.values() else f"{node.name}_{axis}"
            dim = symbols.setdefault(str(size), fresh)
            shape.append(dim)
            ranges[dim] = _range(program, size, DEFAULT_RANGES.get(dim, DEFAULT_RANGE)[1])
        specs.append(TensorSpec(node.name, tuple(shape), str(node.meta["val"].dtype)[6:], ranges))
    return tuple(specs)


def _range(program: Program, size: Any, largest: int) -> tuple[int, int]:
    """`largest` where the program gives no upper end."""
    from torch.utils._sympy.value_ranges import bound_sympy

    bounds = bound_sympy(size.node.expr, program.range_constraints)
    low = max(1, int(bounds.lower))
    ends = bool(getattr(bounds.upper, "is_Integer", False))
    return low, max(low, int(bounds.upper) if ends else largest)


def _refuse_other_sizes(path: Path, written: TensorSpec, asked: TensorSpec) -> None:
    fits = len(written.shape) == len(asked.shape) and written.dtype == asked.dtype
    if not fits or not all(
        _fits(have, want, written, asked) for have, want in zip(written.shape, asked.shape, strict=True)
    ):
        raise UsageError(
            f"{path} takes {told_input(written)}, not {told_input(asked)}",
            "ask for sizes within it, or export the program again",
        )


def _fits(have: int | str, want: int | str, written: TensorSpec, asked: TensorSpec) -> bool:
    low, high = (want, want) if isinstance(want, int) else asked.ranges.get(want, DEFAULT_RANGE)
    least, most = (have, have) if isinstance(have, int) else written.ranges[have]
    return least <= low <= high <= most


def _refuse_steps(path: Path, program: Program, asked: dict[str, TensorSpec]) -> None:
    """A size such as 4*s0 goes in steps, which a range does not say."""
    for node in _placeholders(program):
        spec = asked[node.name]
        for axis, size in enumerate(node.meta["val"].shape):
            dim = spec.shape[axis]
            if isinstance(size, int) or size.node.expr.is_symbol or isinstance(dim, int):
                continue
            fixed = [spec.ranges[each][1] if each == dim else each for each in spec.shape]
            told = told_input(TensorSpec(spec.name, tuple(fixed), spec.dtype, spec.ranges))
            raise UsageError(
                f"{path} takes only some sizes of {spec.name!r} at axis {axis}: {size}",
                f"give that axis one size, such as --input {told}",
            )
