"""From what is known to what the node is to be: reconcile, plan, compose, switch over."""
