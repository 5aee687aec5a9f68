"""The options that verbs share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A built-in name, a recipe.toml, module:function, or a .onnx or .pt2 file."
    ),
]
ModelOrBundle = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A bundle folder, a built-in name, a recipe.toml, or a network of your own."
    ),
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `edgekit compile` wrote.")]
ModelOrGraph = Annotated[
    str, typer.Argument(metavar="MODEL", help="A built-in name, a recipe.toml, or a network of your own.")
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
Data = Annotated[
    Path | None, typer.Option(help="Your own data to prove it on: .npz, a folder of feeds or of images.")
]
Calibration = Annotated[
    Path | None, typer.Option(help="Your own samples to calibrate int8 on, in the same forms.")
]
Board = Annotated[str | None, typer.Option(help="Profile of the board it is for: see `edgekit list boards`.")]
Capabilities = Annotated[
    str | None,
    typer.Option(
        "--compute-capability", metavar="8.6,8.9,...", help="GPUs that TensorRT-RTX builds for without them."
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=TYPE[SIZES]",
        help="An input of your own network: x=float32\\[batch:1..8,3,64].",
    ),
]
State = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="INPUT=OUTPUT", help="A hidden state and the output that feeds it."),
]
Metric = Annotated[
    str | None, typer.Option(help="accuracy, top5, mse, mae, or module:function(outputs, target).")
]
Preprocessing = Annotated[
    str | None,
    typer.Option(
        "--preprocess", metavar="KEY=VALUE,...", help="Image to input: size=224x224,mean=0.5,std=0.5."
    ),
]
Decoding = Annotated[
    str | None,
    typer.Option(
        "--decode", metavar="KEY=VALUE,...", help="Outputs to boxes: boxes=boxes,scores=scores,format=cxcywh."
    ),
]
ClassNames = Annotated[
    Path | None, typer.Option("--labels", help="Names of the classes: one a line, or a JSON list or table.")
]
MaxDrop = Annotated[
    str | None, typer.Option("--max-drop", metavar="0.5%", help="Largest drop of the metric that passes.")
]
MaxError = Annotated[
    list[str] | None,
    typer.Option(
        "--max-error",
        metavar="[OUTPUT=]5%",
        help="Largest relative L2 error that passes; of one output with its name before it.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="As for compile; every built-in recipe with weights by default."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="May be repeated; onnxruntime, openvino, tensorrt-rtx by default."),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", "-p", help="May be repeated; fp32, half (the target's fastest) and int8 by default."
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the bundles; build/sweep by default.")
]
Jobs = Annotated[
    int, typer.Option(min=0, help="Cells built at once; 0: one per usable core. Timing is one after another.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Build everything anew, whatever is there.")]
Plan = Annotated[
    Path | None,
    typer.Option(
        help="Precision of each layer: a plan.json, or a bundle that holds one; the rest is up to the method."
    ),
]
Layers = Annotated[
    bool, typer.Option("--layers", help="Compare layer by layer: where do reference and engine part?")
]
Kit = Annotated[bool, typer.Option("--kit", help="Ask for a build kit: exit 0 when one was written.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random; the recipe's by default.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report, only errors.")]
