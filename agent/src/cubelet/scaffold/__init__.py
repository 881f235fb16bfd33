"""``cubelet new``: a complete package for a cube of one's own, which passes its tests as it is."""
