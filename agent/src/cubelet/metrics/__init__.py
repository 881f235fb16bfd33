"""The agent's ``/metrics``: a node's metrics in Prometheus' text format.

Events are counted as they happen (:mod:`.meters`); states are looked up at each scrape: those of
the node (:mod:`.node`), of maps (:mod:`.maps`) and of cubes (:mod:`.cubes`). An agent that does not
serve the page imports only :mod:`.meters`.
"""

from __future__ import annotations
