"""The parts of `steps/search.py`: what is judged on, sensitivity, the order of retreat, the race."""
