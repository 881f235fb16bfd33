"""The ddos cube."""
