"""edgekit's plan beside the defaults of nncf and onnxruntime.quantization, as a Markdown table.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/quantization.py                               all networks, both engines
    python benchmarks/quantization.py crnn lstm --target openvino

All forms of a network begin with one float ONNX graph and the same calibration samples. Errors are
relative L2 against PyTorch (of an ONNX file ONNX Runtime in fp32) on samples that nothing was calibrated
on. edgekit is `compile --precision int8 --max-error 5% --set search.seconds=40`; the advice under the
table is what `edgekit quantize --max-error 5%` ships. Each engine is timed in a process of its own at
batch 1 with every core; the processes take turns, so compare the rows of one network with each other.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the networks are those of `tests`

from benchmarks._forms import ENGINES, FORMS, Form  # noqa: E402
from benchmarks._networks import SEARCH_S, SUBJECTS, NotBroughtError, Prepared, prepare  # noqa: E402
from edgekit.runtime.engines import usable_cores  # noqa: E402
from edgekit.runtime.errors import EdgekitError  # noqa: E402
from edgekit.runtime.proof import Parity, load_pairs, save_pairs  # noqa: E402
from edgekit.runtime.timing import Worker, alternate  # noqa: E402
from edgekit.steps.prove import engine_command  # noqa: E402

COLUMNS = ("network", "engine", "form", "rel. L2", "within 5%", "accuracy", "p50 ms", "layers")
PACKAGES = ("edgekit-deploy", "torch", "onnxruntime", "openvino", "nncf", "numpy")
BUDGET = 0.05
LIMIT_S = 240
TIMED, BLOCKS, BLOCK_S, CALLS = 8, 4, 0.15, (8, 40)


@dataclass(kw_only=True)
class Row:
    """One form of a network: what was made of it, or why nothing was."""

    form: Form
    folder: Path
    told: Mapping[str, Any]
    rel_l2: float = float("nan")
    accuracy: float | None = None
    times: list[float] = field(default_factory=list)

    @property
    def refused(self) -> str:
        """Why there is no engine; empty: there is one."""
        return str(self.told.get("error", ""))

    def cells(self, network: str) -> tuple[str, ...]:
        """As it stands in the table."""
        ends = (network, self.form.engine, self.form.label)
        if self.refused:
            return (*ends, f"failed: {self.refused.replace('|', '/')}")
        return (
            *ends,
            f"{100 * self.rel_l2:.{2 if self.rel_l2 < 0.1 else 3}g}%",
            "yes" if self.rel_l2 <= BUDGET else "NO",
            "" if self.accuracy is None else f"{100 * self.accuracy:.1f}%",
            f"{median(self.times):.3g}",
            ", ".join(f"{count} {kind}" for kind, count in sorted(self.told["layers"].items())),
        )


def main() -> int:
    """Print the machine, the table and the advice; 1 when a row of edgekit's failed or broke its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(SUBJECTS)}; default all"
    )
    parser.add_argument("--target", action="append", choices=ENGINES)
    parser.add_argument(
        "--seconds", type=float, default=SEARCH_S, help="of edgekit's search; default %(default)s"
    )
    told = parser.parse_args()
    if strange := [name for name in told.networks if name not in SUBJECTS]:
        parser.error(f"there is no network {strange[0]!r}: {', '.join(SUBJECTS)}")
    print(f"{machine()}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    advice, kept = [], True
    for name in told.networks or SUBJECTS:
        try:
            with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
                rows = measured(name, told.target or ENGINES, told.seconds, Path(scratch))
        except NotBroughtError as error:
            print(f"| {name} | not measured: {error} |", flush=True)
            continue
        for row in rows:
            print(f"| {' | '.join(row.cells(name))} |", flush=True)
        advice += [f"- {name}, {row.form.engine}: {said(row)}" for row in rows if row.form.ours]
        kept &= all(row.rel_l2 <= BUDGET for row in rows if row.form.ours)
    print("\nedgekit's advice:\n\n" + "\n".join(advice))
    return 0 if kept else 1


def machine() -> str:
    """The machine and the versions that the table holds for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vector = [
        flag for flag in ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if flag in flags
    ]
    found = [f"{package} {installed}" for package in PACKAGES if (installed := _version(package))]
    cpu = f"{names[0] if names else platform.processor() or platform.machine()} ({', '.join(vector)})"
    return f"{cpu}, {usable_cores()} cores, Python {platform.python_version()}, {', '.join(found)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def measured(name: str, targets: Sequence[str], seconds: float, scratch: Path) -> list[Row]:
    """Every form of one network on these engines, made, held against the reference and timed."""
    folder = scratch / name
    folder.mkdir()
    network = prepare(SUBJECTS[name], folder)
    rows = [judged(row, network) for row in all_made(name, targets, seconds, scratch)]
    race([row for row in rows if not row.refused], network, scratch)
    return rows


def all_made(network: str, targets: Sequence[str], seconds: float, scratch: Path) -> list[Row]:
    """The forms on these engines: peers side by side, edgekit's alone, because its search times engines."""
    wanted = [form for form, what in FORMS.items() if what.engine in targets]

    def make(form: str) -> Row:
        return made(form, network, seconds, scratch)

    with ThreadPoolExecutor(usable_cores()) as pool:
        peers = [form for form in wanted if not FORMS[form].ours]
        found = dict(zip(peers, pool.map(make, peers), strict=True))
    return [found[form] if form in found else make(form) for form in wanted]


def made(form: str, network: str, seconds: float, scratch: Path) -> Row:
    """Make one form in a process of its own; its crash is the row's reason."""
    what, out = FORMS[form], scratch / form
    if what.needs and find_spec(what.needs) is None:
        missing = f"{what.needs} is not installed: pip install -c constraints.txt -e '.[bench]'"
        return Row(form=what, folder=out, told={"error": missing})
    command = [sys.executable, "-m", "benchmarks._forms", form, network, str(scratch), str(seconds)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Row(form=what, folder=out, told={"error": f"not done after {LIMIT_S} s"})
    if not out.with_suffix(".json").exists():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        told = {"error": f"the process ended with code {done.returncode} {' '.join(last)}"}
        return Row(form=what, folder=out, told=told)
    return Row(form=what, folder=out, told=json.loads(out.with_suffix(".json").read_text(encoding="utf-8")))


def judged(row: Row, network: Prepared) -> Row:
    """The row with its error, and with its accuracy where there are labels."""
    if row.refused:
        return row
    found = load_pairs(row.folder.with_suffix(".npz"))[1]
    difference = Parity()
    for expected, outputs in zip(network.held_out()[1], found, strict=True):
        difference.add(expected, outputs)
    row.rel_l2, row.accuracy = difference.rel_l2, network.accuracy(found)
    return row


def race(rows: Sequence[Row], network: Prepared, scratch: Path) -> None:
    """Time the engines in turns, on held-out samples from the smallest to the largest."""
    feeds = sorted(network.held_out()[0], key=lambda feed: sum(array.size for array in feed.values()))
    pairs = scratch / "timed.npz"
    save_pairs(pairs, feeds[:: max(len(feeds) // TIMED, 1)][:TIMED])
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(engine_command(row.folder, pairs, {}))) for row in rows]
        running = {str(place): worker for place, worker in enumerate(workers) if _opened(worker, rows[place])}
        times = alternate({place: _turn(worker) for place, worker in running.items()}, BLOCKS, 0)
        for place, worker in running.items():
            rows[int(place)].times = times[place]
            worker.close()


def _opened(worker: Worker, row: Row) -> bool:
    """Wait for a worker; what keeps it from running becomes the row's reason."""
    try:
        worker.ready()
    except EdgekitError as error:
        row.told = {"error": error.message}
    return not row.refused


def _turn(worker: Worker) -> Callable[[int], list[float]]:
    """A block of calls, as many as fit into BLOCK_S, whatever `alternate` asks for: some forms are slow.

    Every feed is taken equally often where that is not too many.
    """
    few, many = CALLS
    calls = max(few, min(many, round(BLOCK_S * 1000 / median(worker.block(TIMED)))))
    calls -= calls % TIMED if calls > TIMED else 0
    return lambda _: worker.block(calls + 1)


def said(row: Row) -> str:
    """What edgekit itself says of its plan."""
    if row.refused:
        return row.refused
    blame = f"; most of the error is made by {row.told['blame']}" if row.told.get("blame") else ""
    return f"{row.told['verdict']}{blame}"


if __name__ == "__main__":
    sys.exit(main())
