"""A node's current problems by place: each is logged once, and listed for as long as it lasts."""

from __future__ import annotations

import structlog

log = structlog.get_logger()


class Problems(dict[str, str]):
    """Texts by place."""

    def note(self, place: str, problem: str) -> None:
        """Set the problem of a place; '' clears it."""
        if problem and self.get(place) != problem:
            log.error("problem", place=place, problem=problem)
        if problem:
            self[place] = problem
        else:
            self.pop(place, None)
