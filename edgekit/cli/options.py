"""The options that verbs share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A built-in name (see `edgekit list models`) or a recipe.toml.")
]
ModelOrBundle = Annotated[
    str, typer.Argument(metavar="MODEL", help="A bundle folder, a built-in name or a recipe.toml.")
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `edgekit compile` wrote.")]
ModelOrGraph = Annotated[
    str, typer.Argument(metavar="MODEL", help="A built-in name, a recipe.toml or an ONNX file.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", "-t", help="Engine: onnxruntime, openvino, pytorch, tensorrt, tensorrt-rtx."),
]
Precision = Annotated[
    str | None, typer.Option("--precision", "-p", help="fp32, fp16, bf16 or int8; the recipe's by default.")
]
Device = Annotated[str | None, typer.Option(help="Device of the engine: CPU, GPU, NPU, AUTO.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.")]
Weights = Annotated[Path | None, typer.Option(help="Your own weights: .safetensors or .pt.")]
Data = Annotated[Path | None, typer.Option(help="Your own labelled images to prove it on: a folder.")]
Calibration = Annotated[Path | None, typer.Option(help="Your own labelled images to calibrate int8 on.")]
Board = Annotated[str | None, typer.Option(help="Profile of the board it is for: see `edgekit list boards`.")]
Capabilities = Annotated[
    str | None,
    typer.Option(
        "--compute-capability", metavar="8.6,8.9,...", help="GPUs that TensorRT-RTX builds for without them."
    ),
]
Kit = Annotated[bool, typer.Option("--kit", help="Ask for a build kit: exit 0 when one was written.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random; the recipe's by default.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report, only errors.")]
