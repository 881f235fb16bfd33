"""Fills, attaches, reads and sweeps the maps and programs in force."""
