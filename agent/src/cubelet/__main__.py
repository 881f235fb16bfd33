"""`python -m cubelet` is `cubelet`."""

from __future__ import annotations

from cubelet.cli import main

main()
