"""``cubelet cube check``: finds a cube's errors before it runs on any node."""
