"""Copies of flows' packets to pods: the maps for them, while some cube mirrors (``mirror.h``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cubelet.composer.ends import Rate
from cubelet_hooks.cube import Cube
from cubelet_hooks.flows import Counter, Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U32, Record

RATE, COPIES = "mirror_rate", "mirrored"
"""The maps' names, after ``cubelet_``. Of ``mirrored`` the first counts copies that were sent, the
second those that were not: over the rate, or to what is no pod's port any more."""
MIRRORS = "cubelet_mirrors"
"""The program that sends what is copied."""
COPYING = frozenset(("bpf_clone_redirect",))
"""The helpers that it copies by."""


class MirrorTargets(Record):
    """Where a flow's packets are copied to: pods' ports, by ifindex; 0 for none.

    ``epoch`` is the sum of epochs that the flow was judged under when it was said.
    """

    first: U32
    second: U32
    third: U32
    fourth: U32
    epoch: U32


def mirroring(cubes: Iterable[Cube]) -> bool:
    """Whether some cube has packets copied."""
    return any(cube.mirrors for cube in cubes)


def mirror_maps(cubes: Iterable[Cube]) -> Iterator[Map]:
    """The core's maps for that; none if no cube mirrors."""
    if mirroring(cubes):
        yield Map(RATE, MapType.ARRAY, Index, Rate, 1, planned=False)
        yield Map(COPIES, MapType.PERCPU_ARRAY, Index, Counter, 2, planned=False)
