"""The mirror cube."""
