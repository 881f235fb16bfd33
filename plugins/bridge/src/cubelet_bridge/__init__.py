"""The bridge cube."""
