"""Invariants that the datapath does not keep in trial runs, with the reason.

A violation of one of these does not fail a run. A run that was long enough to meet one, and did
not, fails: then it has been mended, and its line goes away.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {
    "other_mac": "programs for trial runs do not look at the uplink's destination MAC address: "
    "what they return is the same for a stack that the frame is left to and for a pod",
}
