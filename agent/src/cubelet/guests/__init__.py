"""Runs the Python of cubes that others wrote in processes of their own, within limits."""
