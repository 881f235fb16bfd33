"""The contract between cubelet and its cubes."""
