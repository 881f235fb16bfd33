"""The agent in a Kubernetes cluster: what it follows there, and what it tells the API server."""
