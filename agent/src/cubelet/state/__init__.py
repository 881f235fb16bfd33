"""What the agent knows: the cluster's objects, and what must survive a restart."""
