"""The node's settings file, the cluster's configuration, and the setup made of both."""
