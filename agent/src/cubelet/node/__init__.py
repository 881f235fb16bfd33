"""The machine: can it run cubelet, and how cubelet leaves it."""
