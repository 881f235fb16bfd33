"""The agent's process: its parts, its loop, and its answers on socket and HTTP."""
