"""Quantities and annotations: plain Python, without privileges."""

from __future__ import annotations

import re

import pytest

from cubelet_policer.bandwidth import Limit, limits_anything, limits_of, parse_bandwidth
from cubelet_policer.records import Direction

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"


@pytest.mark.parametrize(
    ("text", "bits_per_second"),
    [
        ("10M", 10_000_000),
        ("1G", 1_000_000_000),
        ("512k", 512_000),
        ("100Mi", 100 * 1024**2),
        ("1Ki", 1024),
        ("1.5G", 1_500_000_000),
        (".5M", 500_000),
        ("5.M", 5_000_000),
        ("+2M", 2_000_000),
        ("1000", 1000),
        ("2e6", 2_000_000),
        ("2E6", 2_000_000),
        ("25e-1M", None),
        ("1e-3G", None),
        ("1000000000m", 1_000_000),
        ("1000000000000u", 1_000_000),
        ("1000000000000000n", 1_000_000),
        ("0.001P", 10**12),
        ("0.0001E", 10**14),
        ("1k", 1_000),
        ("1P", 10**15),
        # It is rounded up to whole bits before it is compared, as the kubelet does.
        ("999.5", 1_000),
        ("1000.1", 1_001),
    ],
)
def test_quantities(text: str, bits_per_second: int | None) -> None:
    if bits_per_second is None:
        with pytest.raises(ValueError, match="no quantity"):
            parse_bandwidth(text)
    else:
        assert parse_bandwidth(text) == bits_per_second


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is no quantity, such as 10M"),
        ("fast", "'fast' is no quantity"),
        ("10 M", "no quantity"),
        ("10M ", "no quantity"),
        ("10K", "no quantity"),
        ("10MB", "no quantity"),
        ("10mi", "no quantity"),
        ("1e", "no quantity"),
        ("1_000", "no quantity"),
        ("0x1000", "no quantity"),
        (".", "no quantity"),
        ("٣M", "no quantity"),
        ("inf", "no quantity"),
        ("NaN", "no quantity"),
        ("9" * 5000, "no quantity"),
        ("999", "999 is less than 1k, which is the least"),
        ("0", "less than 1k"),
        ("-10M", "less than 1k"),
        ("1e-999999999999", "less than 1k"),
        ("1.1P", "1.1P is more than 1P, which is the most"),
        ("1E", "more than 1P"),
        ("1Pi", "more than 1P"),
        ("1e999999999999", "more than 1P"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        parse_bandwidth(text)
    assert len(str(caught.value)) < 120


def test_each_annotation_limits_its_own_direction() -> None:
    given = {INGRESS: "1M", EGRESS: "much", "kubernetes.io/bandwidth": "3M"}
    problem = f"{EGRESS}: 'much' is no quantity, such as 10M"
    assert list(limits_of(given)) == [
        Limit(Direction.INGRESS, "1M", 1_000_000),
        Limit(Direction.EGRESS, "much", 0, problem),
    ]
    assert limits_anything(given)
    assert limits_anything({EGRESS: "much"})
    assert not limits_anything({"kubernetes.io/bandwidth": "3M"})
    assert list(limits_of({})) == []
