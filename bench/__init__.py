"""Benchmarks. From the repository's root: ``python -m bench NAME [--json FILE]``."""
