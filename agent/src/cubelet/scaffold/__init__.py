"""``cubelet new``: makes a complete package for a new cube, which passes its tests as it is."""
