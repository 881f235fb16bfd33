"""The CNI plugin, its side in the agent, and address management."""
