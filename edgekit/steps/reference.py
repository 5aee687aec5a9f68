"""The worker process that times the PyTorch reference: `python -m edgekit.steps.reference`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgekit import recipe as recipes
from edgekit.runtime.engines import Runner
from edgekit.runtime.timing import serve
from edgekit.steps.load import load


def main() -> int:
    """Serve `runtime.timing.Worker` until it closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--feeds", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    return serve(lambda: _open(options.recipe, options.threads), options.feeds)


def _open(path: Path, threads: int) -> Runner:
    from edgekit.targets.pytorch import ModuleRunner

    network = load(recipes.parse(json.loads(path.read_text()), str(path), path.parent))
    runner: Runner = ModuleRunner(network.module, network.inputs, network.outputs, network.states, threads)
    return runner


if __name__ == "__main__":
    sys.exit(main())
