"""The policer cube: a token bucket for each limited direction of a pod's traffic.

What happens to packets is in ``bpf/policer.bpf.c``. Rates are planned; the buckets belong to the
datapath, so a changed annotation takes effect with the next packet and keeps the bucket.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

from cubelet_hooks import cube
from cubelet_hooks.buckets import SECOND, TokenBucket, token_rate
from cubelet_hooks.cube import Cube, Entry, Placement, Read, Reason, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Earlier, Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.objects import Change, LocalNode, Pod, Port
from cubelet_hooks.view import View
from cubelet_policer.bandwidth import limits_anything, limits_of
from cubelet_policer.records import Bucket, BucketBefore, Direction, LimitKey, Rate
from cubelet_policer.settings import Settings

EMPTY = Bucket(TokenBucket(0), 0, 0)


def migrated(key: LimitKey, old: BucketBefore) -> tuple[LimitKey, Bucket]:
    """A bucket as it is today."""
    return key, Bucket(TokenBucket(old.used_ns), old.dropped_packets, old.dropped_bytes)


class Policer(Cube):
    """Drops packets that a pod sends or receives over the rate of its annotations."""

    kind: ClassVar[str] = "policer"
    abi: ClassVar[int] = 1  # of the contract that the C is written for
    per_packet: ClassVar[frozenset[str]] = frozenset({"pod"})
    placement: ClassVar[tuple[Placement, ...]] = (Placement("pod"),)
    specialised_by: ClassVar[frozenset[str] | None] = frozenset({Pod.kind, LocalNode.kind})
    settings_type: ClassVar[type[cube.Settings]] = Settings
    settings: Settings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("ingress_rate", "the pod is sent more than kubernetes.io/ingress-bandwidth allows"),
        Reason("egress_rate", "the pod sends more than kubernetes.io/egress-bandwidth allows"),
    )
    # They concern no cached verdict, since the cube sees every packet.
    maps: ClassVar[tuple[Map, ...]] = (
        Map(
            "buckets",
            MapType.HASH,
            LimitKey,
            Bucket,
            "max_limits",
            planned=False,
            follows="rates",  # a pod that goes takes its buckets along
            earlier=(Earlier(LimitKey, BucketBefore, migrated),),
        ),
        Map("rates", MapType.HASH, LimitKey, Rate, "max_limits"),
    )
    shows: ClassVar[Mapping[str, str]] = {"limits": "rates"}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("dropped_packets", "counter", "Packets over a pod's rate.", ("pod", "direction")),
        Metric("dropped_bytes", "counter", "Bytes over a pod's rate.", ("pod", "direction")),
    )

    def defines(self, view: View) -> Mapping[str, int]:
        """``POLICER_INGRESS`` and ``POLICER_EGRESS`` in C."""
        return {direction.name: direction for direction in Direction}

    def needed_on(self, view: View) -> Collection[str]:
        """Pods' ports, while a pod of this node, attached or not yet, has an annotation."""
        if view.local is None:
            return ()
        here = (pod for pod in view.pods_on(view.local.name) if not pod.host_network)
        limited = any(limits_anything(pod.annotations) for pod in here if not pod.finished)
        return ("pod",) if limited else ()

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """Each pod: it is planned when it changes, and when it is attached or detached."""
        return [("pod", change.key)] if change.kind in (Pod.kind, Port.kind) else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The pod's rates; none for a direction without a valid limit."""
        pod, port = view.pods.get(unit[1]), view.ports.get(unit[1])
        if pod is None or port is None:
            return
        for limit in limits_of(pod.annotations):
            if limit.bits_per_second:
                key = LimitKey(port.ifindex, limit.direction)
                yield Entry("rates", key, self.rate(limit.bits_per_second))

    def rate(self, bits_per_second: int) -> Rate:
        """A rate with its bucket."""
        saved = self.settings.burst_seconds * bits_per_second
        return Rate(token_rate(bits_per_second, max(saved, self.settings.min_burst_bytes * 8)))

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Mapping[str, object]]:
        """Every limit that a pod of this node asks for, with its drops, or the error in it."""
        rates, buckets = read("rates"), read("buckets")
        for key, port in sorted(view.ports.items()):
            pod = view.pods.get(key)
            for limit in limits_of(pod.annotations) if pod else ():
                found = LimitKey(port.ifindex, limit.direction)
                rate, bucket = rates.get(found), buckets.get(found, EMPTY)
                yield {
                    "pod": key,
                    "direction": limit.direction,
                    "limit": limit.text,
                    "bits_per_second": rate.bits.per_second if rate else 0,
                    "burst_bytes": burst_bytes(rate) if rate else 0,
                    "dropped_packets": bucket.dropped_packets,
                    "dropped_bytes": bucket.dropped_bytes,
                    "problem": limit.problem,
                }

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Drops by pod and direction: there are as many series as limits."""
        pods = {port.ifindex: key for key, port in view.ports.items()}
        for key, bucket in read("buckets").items():
            if pod := pods.get(key.ifindex):
                labels = (pod, Direction(key.direction).name.lower())
                yield Sample("dropped_packets", bucket.dropped_packets, labels)
                yield Sample("dropped_bytes", bucket.dropped_bytes, labels)


def burst_bytes(rate: Rate) -> int:
    """Bytes in a full bucket."""
    return rate.bits.per_second * rate.bits.depth_ns // (8 * SECOND)


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Policer]
