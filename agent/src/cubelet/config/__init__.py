"""What people set: the node's file, the cluster's configuration, and what follows from both."""
