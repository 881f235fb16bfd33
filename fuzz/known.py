"""Invariants that today's datapath is known to break, with the reason.

A violation of one of these does not fail a run. A run that was long enough to meet one, and did
not, fails: then it has been mended, and its line goes away.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {
    "midstream": "a segment that is no SYN opens a flow if policy permits it, or by the second "
    "reading; to be refused unless there is evidence of lost records",
    "martian": "the uplink takes sources that cannot be there (loopback, multicast, other nodes' "
    "pods, Services, the node's own); only the node's own podCIDR is refused",
    "syn_forgets": "a SYN against the direction of an open flow ends it, whoever sends it; a SYN "
    "against a live flow is to forget nothing",
    "quoted": "of a quoted packet whose protocol has no ports (GRE), bytes are changed as if they "
    "were ports and a checksum, once its flow is translated",
    "other_mac": "the uplink takes frames for another's MAC address",
}
