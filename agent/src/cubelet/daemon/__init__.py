"""The agent's process: what it is made of, its loop, and what it answers."""
