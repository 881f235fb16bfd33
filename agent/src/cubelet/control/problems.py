"""What is wrong on a node now, by its place: told once in the log, and for as long as it lasts."""

from __future__ import annotations

import structlog

log = structlog.get_logger()


class Problems(dict[str, str]):
    """Texts by place."""

    def note(self, place: str, problem: str) -> None:
        """Say what is wrong at a place; '' if nothing is (any more)."""
        if problem and self.get(place) != problem:
            log.error("problem", place=place, problem=problem)
        if problem:
            self[place] = problem
        else:
            self.pop(place, None)
