"""Who had an address: the pods that are there, and for a while those that have gone."""

from __future__ import annotations

import time
from collections import OrderedDict

from cubelet_hooks.objects import Pod
from cubelet_hooks.records import Address
from cubelet_hooks.view import View

REMEMBERED = 300.0
"""Seconds for which a pod that has gone is named."""
MOST = 10_000
"""Addresses of pods that have gone."""


class Names:
    """Names pods by their addresses."""

    def __init__(self) -> None:
        self._gone: OrderedDict[Address, tuple[str, float]] = OrderedDict()

    def gone(self, pod: Pod) -> None:
        """Remember a pod that is no more."""
        if pod.host_network:
            return
        for address in pod.ips:
            self._gone.pop(address, None)
            self._gone[address] = pod.key, time.monotonic()
        while len(self._gone) > MOST:
            self._gone.popitem(last=False)

    def pod_of(self, address: Address, view: View) -> str:
        """``namespace/name`` of the pod that has the address as its own, else had it; or empty."""
        for pod in view.pods_by_ip(address):
            if not (pod.host_network or pod.finished):
                return pod.key
        key, since = self._gone.get(address, ("", 0.0))
        return key if time.monotonic() - since < REMEMBERED else ""
