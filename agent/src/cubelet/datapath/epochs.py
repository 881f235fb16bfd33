"""The epochs, as the agent raises them: whose cached verdicts are to be given again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from cubelet.bpf.maps import BpfMap
from cubelet.datapath.shared import SharedWords
from cubelet_hooks.flows import epoch_bucket
from cubelet_hooks.maps import Concerned, Everything, PodsOf
from cubelet_hooks.records import Address, Network
from cubelet_hooks.view import View

_GLOBAL, _ADDRESSES = 0, 2
"""Words of the agent's global epoch, and of the first address's; the programs' own is between."""
_MOST = 1_024
"""Addresses that are raised one by one: more are a quarter of all buckets at least, and to find
them takes longer than all flows' judging."""


class Epochs:
    """The counters whose increase makes cached verdicts stale, written through shared memory.

    ``view`` says which pods a namespace has.
    """

    def __init__(self, table: BpfMap, view: View) -> None:
        self._shared = SharedWords(table)
        self._view = view

    def raise_for(self, concerns: Iterable[Concerned]) -> None:
        """Make every verdict stale that depends on one of these."""
        found = set(concerns)
        if any(isinstance(each, Everything) for each in found):
            self._raise(_GLOBAL)
            return
        addresses = list(islice(self._addresses(found), _MOST + 1))
        if len(addresses) > _MOST:
            self._raise(_GLOBAL)
            return
        for bucket in {epoch_bucket(each) for each in addresses}:
            self._raise(_ADDRESSES + bucket)

    def _addresses(self, concerns: Iterable[Concerned]) -> Iterator[Address]:
        for each in concerns:
            if isinstance(each, PodsOf):
                for pod in self._view.pods_in(each.namespace):
                    yield from pod.ips
            elif isinstance(each, Network):
                yield from each
            elif not isinstance(each, Everything):
                yield each

    def _raise(self, index: int) -> None:
        words = self._shared.words
        words[index] = words[index] + 1 & 0xFFFFFFFF

    def close(self) -> None:
        """Unmap."""
        self._shared.close()
