"""What a child process of this package needs to find it: a start folder and an environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

ROOT = Path(__file__).resolve().parents[__name__.count(".")]
"""The folder that holds the package, be it `edgekit` or a bundle's `runtime`.

A child starts here: in the caller's folder another bundle's `runtime` would come first.
"""


def environment() -> Dict[str, str]:
    """This process's own, with `ROOT` first among the module folders and each of them absolute."""
    known = os.environ.get("PYTHONPATH")
    folders = [str(Path(one).resolve()) for one in known.split(os.pathsep)] if known else []
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *folders]))
