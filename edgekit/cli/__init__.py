"""The command line: parse, call, print. No logic lives here."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The `edgekit` command; ends the process with the exit code of what happened."""
    from edgekit.cli.app import run

    sys.exit(run(sys.argv[1:]))
