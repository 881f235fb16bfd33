"""Statistics of measurements: medians, percentiles, and intervals of paired ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a benchmark's result.

    ``runs`` is the number of measurements. Ratios have ``low`` and ``high`` too: the 95 %
    interval of the median.
    """

    case: str
    variant: str
    median: float
    p10: float
    p90: float
    unit: str
    runs: int
    low: float | None = None
    high: float | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of them lie, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval of the median: two of the values.

    By order statistics: the number of values below the true median is binomial, whatever their
    distribution. At least 6 values are needed for 95 %.
    """
    ordered, n = sorted(values), len(values)
    tail, rank = 0.0, 0
    while rank < n // 2:
        tail += math.comb(n, rank) / 2**n
        if 2 * tail > 1 - confidence:
            break
        rank += 1
    if rank == 0:
        raise ValueError(f"{n} values are too few for an interval of {confidence:.0%}")
    return ordered[rank - 1], ordered[n - rank]


def row(case: str, variant: str, values: Sequence[float], unit: str) -> Row:
    """The row of one series of measurements."""
    return Row(
        case,
        variant,
        median(values),
        percentile(values, 0.1),
        percentile(values, 0.9),
        unit,
        len(values),
    )


def ratio_row(case: str, name: str, above: Sequence[float], below: Sequence[float]) -> Row:
    """The row of two series' ratios, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, high = median_interval(ratios)
    return msgspec.structs.replace(row(case, name, ratios, "ratio"), low=low, high=high)
