"""The flowlog cube: see :mod:`cubelet_flowlog.cube`."""
