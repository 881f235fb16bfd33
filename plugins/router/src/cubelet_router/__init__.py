"""The router cube."""
