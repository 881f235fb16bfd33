"""The annotations that limit a pod, read as the kubelet reads them.

See ``pkg/util/bandwidth/utils.go`` of Kubernetes for names and bounds, and
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ for the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from cubelet_policer.records import Direction

ANNOTATIONS: Mapping[Direction, str] = {
    Direction.INGRESS: "kubernetes.io/ingress-bandwidth",
    Direction.EGRESS: "kubernetes.io/egress-bandwidth",
}
LEAST, MOST = 1_000, 10**15
"""Bits per second: 1k to 1P."""

_SUFFIXES: Mapping[str, Decimal] = {
    **{each: Decimal(10) ** (3 * n - 9) for n, each in enumerate(("n", "u", "m", "", "k"))},
    **{each: Decimal(10) ** (3 * n + 6) for n, each in enumerate(("M", "G", "T", "P", "E"))},
    **{f"{each}i": Decimal(1024) ** (n + 1) for n, each in enumerate("KMGTPE")},
}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))"
    r"(?:(?P<suffix>[numkMGTPE]?|[KMGTPE]i)|[eE](?P<exponent>[+-]?\d+))",
    re.ASCII,
)
_LONGEST = 64
"""Longest text in characters, three times that of any sensible quantity within the bounds."""


@dataclass(frozen=True)
class Limit:
    """One direction's annotation: its text, and its rate or the error in it.

    ``bits_per_second`` 0: the text is invalid, ``problem`` says why, and nothing is limited.
    """

    direction: Direction
    text: str
    bits_per_second: int
    problem: str = ""


def limits_of(annotations: Mapping[str, str]) -> Iterator[Limit]:
    """The limits that a pod's annotations ask for, including invalid ones."""
    for direction, name in ANNOTATIONS.items():
        if (text := annotations.get(name)) is None:
            continue
        try:
            yield Limit(direction, text, parse_bandwidth(text))
        except ValueError as error:
            yield Limit(direction, text, 0, f"{name}: {error}")


def limits_anything(annotations: Mapping[str, str]) -> bool:
    """Whether a pod has one of the annotations, valid or not."""
    return any(name in annotations for name in ANNOTATIONS.values())


def parse_bandwidth(text: str) -> int:
    """Bits per second of a quantity such as ``10M``, ``1.5G``, ``100Mi`` or ``2e6``, rounded up.

    Raises ValueError for a text that is no quantity, or that is out of the kubelet's bounds.
    """
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"{text[:_LONGEST]!r} is no quantity, such as 10M")
    if found["exponent"] is None:
        value = Decimal(found["number"]) * _SUFFIXES[found["suffix"]]
    else:
        # Exponents beyond +-200 are out of the bounds anyway: clamp them to keep numbers short.
        exponent = max(-200, min(200, int(found["exponent"])))
        value = Decimal(found["number"]).scaleb(exponent)
    if value <= LEAST - 1:
        raise ValueError(f"{text} is less than 1k, which is the least")
    if value > MOST:
        raise ValueError(f"{text} is more than 1P, which is the most")
    return int(value.to_integral_value(ROUND_CEILING))
