"""From an ONNX file to TensorRT's network, or to one sentence that says which node it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Tuple

from ..errors import BadFileError, UnsupportedError
from .log import Messages, sentence

_QUOTED = re.compile(r'"([^"]+)"\s*$')
_ASSERTION = re.compile(r"^Assertion failed: ")


def parse(trt: Any, network: Any, logger: Any, graph: Path, title: str) -> Any:
    """Read `graph` into `network`. The parser that is given back owns the weights: keep it.

    Raises:
        UnsupportedError: names the node, its operator and the parser's reason.
        BadFileError: the file is no ONNX model.
    """
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graph))
    if parsed and network.num_outputs:
        return parser
    messages: Messages = logger.messages
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    if not errors or errors[0].code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED:
        told = _reason(errors[0]) if errors else messages.last_error() or "it holds no network"
        raise BadFileError(
            "{} is not an ONNX model that {} can read: {}".format(graph, title, told),
            "compile the model again",
        )
    more = " (and {} more)".format(len(errors) - 1) if len(errors) > 1 else ""
    raise UnsupportedError(
        "{} does not take {} of {}: {}{}".format(
            title, _node(errors[0], messages), graph.name, _reason(errors[0]), more
        ),
        "replace the operator in the model, or build with a newer version",
    )


def _node(error: Any, messages: Messages) -> str:
    name, operator = _name_and_operator(error, messages)
    told = "node {!r}".format(name) if name else "node number {}".format(error.node())
    told += " ({})".format(operator) if operator else ""
    stack = list(error.local_function_stack() or ()) if hasattr(error, "local_function_stack") else []
    return told + (" in {}".format(" > ".join(map(str, stack))) if stack else "")


def _name_and_operator(error: Any, messages: Messages) -> Tuple[str, str]:
    """Told by the error itself from TensorRT 10 on; before, the log names the node parsed last."""
    if hasattr(error, "node_name"):
        return error.node_name(), error.node_operator()
    return messages.node


def _reason(error: Any) -> str:
    """The parser often quotes its reason at the end of a C++ condition."""
    text = str(error.desc())
    quoted = _QUOTED.search(text)
    return sentence(quoted.group(1) if quoted else _ASSERTION.sub("", text))
