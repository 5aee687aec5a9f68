"""`python -m edgekit.runtime BUNDLE VERB ...`: what a bundle's `run.py` does, on a bundle elsewhere."""

import sys
from pathlib import Path

from .face import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
