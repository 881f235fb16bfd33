"""The node agent: discovers cubes, composes them and drives them from Kubernetes events."""
