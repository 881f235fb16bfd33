"""Where the agent's objects come from. A source emits changes and never plans or waits."""
