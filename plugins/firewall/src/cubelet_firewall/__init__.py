"""The firewall cube."""
