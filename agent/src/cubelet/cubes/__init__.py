"""What serves cubes in the agent: discovery, declarations, events, packets, tables, requests."""
