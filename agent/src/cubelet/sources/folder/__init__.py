"""A folder of manifests as the source of objects: a cluster without an API server."""
