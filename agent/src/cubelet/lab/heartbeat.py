"""Renews the leases of a lab's nodes on a foreign API server.

    python -m cubelet.lab.heartbeat LAB

Kubernetes' node lifecycle controller considers a node lost, and its pods not ready, some 40 seconds
after its Lease was last renewed. A kubelet renews it every 10 seconds (KEP-589).
"""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Final

from cubelet.lab import api
from cubelet.lab.api import LEASES
from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout
from cubelet.lab.transport import Transport

_PERIOD: Final = 10.0  # seconds
_LIFE: Final = 40  # seconds that a lease holds


def beat(transport: Transport, node: str) -> None:
    """Renew a node's lease, which is owned by the Node object. Raises LabError."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": node, "leaseDurationSeconds": _LIFE, "renewTime": now}
    found = transport.call("GET", f"{LEASES}/{node}")
    if found.status == 404:
        owner = transport.call("GET", f"/api/v1/nodes/{node}").body.get("metadata", {})
        answer = transport.call("POST", LEASES, _lease(node, str(owner.get("uid", "")), spec))
    else:
        answer = transport.call("PUT", f"{LEASES}/{node}", {**found.body, "spec": spec})
    if answer.status >= 400:
        raise LabError(f"lease of {node}: {answer.body.get('message') or answer.status}")


def _lease(node: str, uid: str, spec: dict[str, Any]) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    metadata = {"name": node, "namespace": "kube-node-lease", "ownerReferences": [owner]}
    head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**head, "metadata": metadata, "spec": spec}


def main(name: str) -> None:
    """Renew the leases of a lab's nodes until SIGTERM; errors are logged, and it tries again."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    layout = Layout(name)
    nodes = layout.load().nodes
    transport = api.transport_of(layout)
    while not stop.is_set():
        for node in nodes:
            try:
                beat(transport, node.name)
            except LabError as error:
                print(error, file=sys.stderr, flush=True)
        stop.wait(_PERIOD)


if __name__ == "__main__":
    main(sys.argv[1])
