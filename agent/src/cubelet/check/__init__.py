"""``cubelet cube check``: what a cube does wrong, before it runs on any node."""
