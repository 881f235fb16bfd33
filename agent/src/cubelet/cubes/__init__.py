"""The agent's side of cubes: discovery, declarations, events, packets, tables, requests."""
