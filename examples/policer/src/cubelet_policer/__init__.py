"""The policer cube."""
