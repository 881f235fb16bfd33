"""Rows as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import Row

_HEADER = ("CASE", "VARIANT", "MEDIAN", "P10", "P90", "UNIT", "RUNS")


def table(rows: Sequence[Row]) -> str:
    """Measurements and sizes in columns; each case's ratios below it, with their intervals."""
    lines = [_HEADER, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    digits = {"ratio": 3, "ns": 1, "s": 1, "ms": 1, "%": 1}.get(row.unit, 0)
    median, p10, p90 = (f"{value:.{digits}f}" for value in (row.median, row.p10, row.p90))
    if row.low is not None and row.high is not None:
        median = f"{row.median:.3f} [{row.low:.3f}, {row.high:.3f}]"
    return (row.case, row.variant, median, p10, p90, row.unit, str(row.runs))
