"""The lbrp cube."""
