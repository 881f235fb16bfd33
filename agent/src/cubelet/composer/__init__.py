"""Turns cubes and their settings into programs, and loads them."""
