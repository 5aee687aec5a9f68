"""The parts of `steps/layers.py`: matching, comparing, finding causes, plotting."""
