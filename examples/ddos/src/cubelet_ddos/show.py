"""Tables and metrics of the cube, as pure functions of the maps' records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from cubelet_ddos import lists
from cubelet_ddos.records import Block, Cause, Source, prefix
from cubelet_ddos.settings import Settings
from cubelet_hooks.cube import Read, Row
from cubelet_hooks.metrics import Sample
from cubelet_hooks.view import View


def seconds_left(block: Block, now: int) -> int:
    """Seconds until the block ends, rounded up; 0: it has ended."""
    return max(0, -(-(block.until - now) // 1_000_000_000))


def temporary(blocked: Mapping[Source, Block], now: int) -> list[dict[str, object]]:
    """Addresses with a temporary block, those with the most dropped packets first."""
    held = [(key, block) for key, block in blocked.items() if block.until > now]
    held.sort(key=lambda each: (-each[1].packets, each[0].address))
    return [
        {
            "source": str(key.address),
            "cause": Cause(block.cause).name.lower(),
            "seconds": seconds_left(block, now),
            "packets": block.packets,
        }
        for key, block in held
    ]


def blocked(read: Read, settings: Settings, view: View, now: int) -> Iterator[Row]:
    """The dropped sources: temporary blocks, then listed networks with the lists that name them."""
    for row in temporary(read("blocked"), now):
        yield {**row, "lists": [], "reason": ""}
    names, reasons = defaultdict(list), defaultdict(list)
    for network, name, reason in lists.blocked_by(settings, view):
        names[prefix(network)].append(name)
        reasons[prefix(network)].extend([reason] if reason else [])
    for key in sorted(read("listed"), key=lambda key: (key.address, key.prefixlen)):
        yield {
            "source": f"{key.address}/{key.prefixlen}",
            "cause": Cause.LISTED.name.lower(),
            "seconds": None,
            "packets": None,
            "lists": names[key],
            "reason": "; ".join(reasons[key]),
        }


def blocklists(view: View) -> Iterator[Row]:
    """Every Blocklist, with the errors in it."""
    for key, blocklist in sorted(view.custom(lists.BLOCKLIST.kind).items()):
        networks, wrong, reason = lists.content(blocklist)
        yield {"name": key, "prefixes": len(networks), "reason": reason, "ignored": wrong}


def samples(read: Read, now: int) -> Iterable[Sample]:
    """The cube's metrics."""
    held = Counter(block.cause for block in read("blocked").values() if block.until > now)
    for cause in (Cause.OPERATOR, Cause.RATE):
        yield Sample("blocked_sources", held[cause], (cause.name.lower(),))
    yield Sample("listed_prefixes", len(read("listed")))
    spared = {key.index: value.packets for key, value in read("spared").items()}
    for cause in Cause:
        yield Sample("spared_packets", spared.get(cause, 0), (cause.name.lower(),))
