"""The agent's ``/metrics``: what Prometheus reads of a node, in its text format.

What happens is counted as it happens (:mod:`.meters`); what is, is looked up when it is asked for:
of the node (:mod:`.node`), of maps (:mod:`.maps`), of cubes' own (:mod:`.cubes`). Only an agent
that serves the page imports any of it but the first.
"""

from __future__ import annotations
