"""The command line of a bundle on the board: `python run.py check|bench|infer|build`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, TextIO

import numpy as np

from . import answers
from ._ending import cleaned_up_on_sigterm, exit_code
from .errors import BadFileError, UsageError
from .manifest import read_manifest, verify
from .proof import GOLDEN, Check, Parity, load_pairs, summary
from .session import Session, open_bundle, open_runner
from .timing import Worker, alternate, serve

BLOCKS = 5
CALLS = 40
BUILDERS = ("tensorrt", "tensorrt_rtx")


def main(folder: Path, arguments: Optional[Sequence[str]] = None) -> int:
    """Run one verb on the bundle in `folder`; the answer is the exit code, never a traceback."""
    options = _parser().parse_args(arguments)
    verbs = {"check": check, "bench": bench, "infer": infer, "build": build, "worker": worker}
    try:
        with cleaned_up_on_sigterm():
            return verbs[options.verb](folder, options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  every bug becomes exit 70
        return exit_code(error, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description="A compiled network that proves itself.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("--device", help="device of the engine, for example CPU or GPU")
    common.add_argument("--threads", type=int, help="threads of the engine")
    verbs.add_parser("check", parents=[common], help="hashes, then parity with the recorded outputs")
    verbs.add_parser("bench", parents=[common], help="latency of the engine on the recorded inputs")
    feed = verbs.add_parser(
        "infer", parents=[common], help="run it on an image, a sequence, a text or named arrays"
    )
    feed.add_argument(
        "input",
        help="an image, a .csv of a sequence, a text or its .txt, or an .npz with one array per input",
    )
    feed.add_argument("--output", help="write the outputs to this .npz")
    made = verbs.add_parser("build", parents=[common], help="build the engine on this device and prove it")
    made.add_argument("--workspace-mb", type=int, help="memory that the builder's kernels may use, in MB")
    made.add_argument("--dla", type=int, help="number of a DLA core; what it does not take runs on the GPU")
    made.add_argument("--no-bench", action="store_true", help="do not measure the latency")
    made.add_argument("--output", type=Path, help="folder of the built bundle; default: NAME-built beside it")
    hidden = verbs.add_parser("worker", parents=[common])
    hidden.add_argument("--feeds", required=True)
    hidden.add_argument("--shapes", type=json.loads, default={})
    return parser


def check(folder: Path, options: argparse.Namespace) -> int:
    """Hold the files against their hashes and the engine against the recorded outputs."""
    checks = prove(folder, options.device, options.threads)
    passed = all(item.passed for item in checks)
    if options.json:
        print(json.dumps({"passed": passed, "checks": [item.told() for item in checks]}, indent=1))
    else:
        for item in checks:
            print(_line(item))
        print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


def prove(folder: Path, device: Optional[str] = None, threads: Optional[int] = None) -> List[Check]:
    """Parity of the bundle's engine, on this machine, with the PyTorch outputs recorded in it."""
    with open_bundle(folder, device, threads) as session:
        return golden_checks(session, folder)


def golden_checks(session: Session, folder: Path) -> List[Check]:
    """Parity of an open engine with the outputs recorded in the bundle in `folder`."""
    parity = Parity(session.manifest.labels)
    for feed, expected in zip(*load_pairs(folder / GOLDEN)):
        parity.add(expected, session.infer(feed))
    return parity.checks(session.manifest.limits, "golden")


def _line(item: Check) -> str:
    bound = "" if item.limit is None else "  ({} {:g})".format(">=" if item.at_least else "<=", item.limit)
    mark = "ok  " if item.passed else "FAIL"
    return "{} {:<20} {:.6g}{}{}".format(
        mark, item.name, item.value, " " + item.unit if item.unit else "", bound
    )


def bench(folder: Path, options: argparse.Namespace) -> int:
    """Time the engine in a process of its own on the recorded inputs."""
    verify(folder, read_manifest(folder))
    told = measure(folder, options.device, options.threads)
    if options.json:
        print(json.dumps(told, indent=1))
    else:
        print("p50 {p50_ms:.2f} ms  p90 {p90_ms:.2f} ms  p99 {p99_ms:.2f} ms".format(**told))
        print("{throughput:.1f} inferences/s, peak memory {peak_mb} MB".format(**told))
    return 0


def measure(folder: Path, device: Optional[str] = None, threads: Optional[int] = None) -> Dict[str, Any]:
    """Latency of the bundle's engine in milliseconds, and what the engine says it was set to."""
    command = [sys.executable, str(folder / "run.py"), "worker", "--feeds", str(folder / GOLDEN)]
    command += ["--device", device] if device else []
    command += ["--threads", str(threads)] if threads else []
    with Worker(command) as process:
        process.ready()
        times = alternate({"target": process.block}, BLOCKS, CALLS)["target"]
        process.close()
        told: Dict[str, Any] = dict(summary(times), peak_mb=process.peak_mb, boundary="engine")
        told["settings"] = process.settings
        if process.parts:
            told["parts"] = {name: round(float(np.median(part)), 4) for name, part in process.parts.items()}
    return told


def infer(folder: Path, options: argparse.Namespace) -> int:
    """Print what the network says of an image or a text, or the outputs for named arrays."""
    path = Path(options.input)
    with open_bundle(folder, options.device, options.threads) as session:
        if path.suffix.lower() != ".npz":
            if options.output:
                raise UsageError(
                    "--output takes the outputs for an .npz", "leave it out for an image or a text"
                )
            answer = session.predict(options.input)
            said = [json.dumps({"answer": answers.told(answer)})] if options.json else answers.lines(answer)
            for line in said:
                print(line)
            return 0
        outputs = session.infer(read_feeds(path))
    if options.output:
        np.savez(options.output, **outputs)  # type: ignore[arg-type]
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    print(json.dumps({"outputs": shapes}) if options.json else shapes)
    return 0


def read_feeds(path: Path) -> Dict[str, np.ndarray]:
    """One array per input from an `.npz`.

    Raises:
        BadFileError: the file is not there or is no `.npz`.
    """
    try:
        with np.load(str(path), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy raises whatever zipfile, zlib and struct raise
        raise BadFileError(
            "{} is no .npz of named arrays: {}".format(path, error), "numpy.savez writes one"
        ) from error


def build(folder: Path, options: argparse.Namespace) -> int:
    """Build the engine from the kit's graph on this device, prove it and time it."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if manifest.target not in BUILDERS:
        raise UsageError("this bundle has its engine: there is nothing to build", "python run.py check")
    from .build import BuildOptions, build_bundle
    from .build_report import lines

    asked = BuildOptions(
        options.device, options.workspace_mb, options.dla, not options.no_bench, options.output
    )
    with Narrator(sys.stderr) as narrator:
        outcome = build_bundle(folder, manifest, asked, narrator)
    print(json.dumps(outcome.report, indent=1) if options.json else "\n".join(lines(outcome.report)))
    return outcome.exit_code


class Narrator:
    """Progress in plain lines: each step once, and how far it is where somebody looks on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._step = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._live:
            far = "  {}/{}".format(done, total) if total else ""
            self._stream.write("\r\x1b[K{}{}".format(what, far))
        elif not total and what != self._step:
            self._stream.write(what + "\n")
        self._stream.flush()
        self._step = what

    def __enter__(self) -> "Narrator":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._step:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def worker(folder: Path, options: argparse.Namespace) -> int:
    """Serve `timing.Worker`; the hashes were looked at by whoever started this."""
    manifest = read_manifest(folder)
    return serve(
        lambda: open_runner(folder, manifest, options.device, options.threads, options.shapes),
        Path(options.feeds),
    )
