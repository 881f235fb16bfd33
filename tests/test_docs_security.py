"""What the security page claims names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?:\*\*)?can", line)]
TESTS = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), TESTS, ids="::".join)
def test_what_is_named_is_a_test(path: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("row", ROWS)
def test_every_claim_says_what_shows_it(row: str) -> None:
    shown = row.strip().strip("|").split("|")[-1]
    assert "::test_" in shown or "](" in shown


def test_every_kind_of_actor_has_claims() -> None:
    actors = PAGE.split("\n## ")[1:]
    assert len(actors) == 8
    assert all("\n| can" in actor for actor in actors)
