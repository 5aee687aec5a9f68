"""The worker process that times the PyTorch reference: `python -m edgekit.steps.reference`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgekit import recipe as recipes
from edgekit.runtime.engines import EngineOptions, Runner
from edgekit.runtime.timing import serve
from edgekit.steps.load import load
from edgekit.steps.prove import reference_runner


def main() -> int:
    """Serve `runtime.timing.Worker` until it closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--feeds", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--traced", type=Path, help="a TorchScript trace in place of the recipe's network")
    options = parser.parse_args()
    return serve(lambda: _open(options.recipe, options.threads, options.traced), options.feeds)


def _open(path: Path, threads: int, traced: Path | None) -> Runner:
    if traced is not None:
        from edgekit.runtime.engines.pytorch import open_engine

        return open_engine(traced, EngineOptions(threads=threads))
    network = load(recipes.parse(json.loads(path.read_text()), str(path), path.parent))
    return reference_runner(network, threads)


if __name__ == "__main__":
    sys.exit(main())
