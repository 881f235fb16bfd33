"""The sources of the agent's objects. A source emits changes, without waiting for passes."""
