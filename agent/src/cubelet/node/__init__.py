"""Checks whether the machine can run cubelet, and removes cubelet from it."""
