"""The nat cube."""
