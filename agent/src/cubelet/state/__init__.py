"""The agent's state: the cluster's objects, and the memory that survives a restart."""
