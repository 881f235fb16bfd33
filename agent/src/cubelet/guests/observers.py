"""Hands what guests' hooks observe to their processes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import structlog

from cubelet.cubes.outside import Tally
from cubelet.guests.host import GuestError, Host
from cubelet.guests.ledger import Asked, Ledger

log = structlog.get_logger()
_AT_ONCE = 500
"""Calls of one question."""


class Observer:
    """The hooks of one package, called in its process after the pass that they observe."""

    def __init__(self, name: str, hooks: frozenset[str], host: Host) -> None:
        self._name = name
        self._hooks = hooks
        self._host = host
        self._ledger = Ledger()
        self._calls: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def note(self, hook: str, **arguments: Any) -> None:
        """Have a hook called, if the package has it."""
        if hook in self._hooks:
            self._calls[hook].append(arguments)

    def observe(self) -> None:
        """Call the hooks; what they are stopped at, or cannot be called for now, is lost."""
        for hook, calls in self._calls.items():
            while calls:
                some = calls[:_AT_ONCE]
                del calls[:_AT_ONCE]
                self._call(hook, some)

    def _call(self, hook: str, calls: list[dict[str, Any]]) -> None:
        try:
            tally: Tally = self._host.ask(None, self._ledger, Asked(hook), "observe", hook, calls)
        except GuestError as error:
            log.error("an observer failed", plugin=self._name, hook=hook, error=str(error))
        else:
            if tally.failures:
                log.error("an observer failed", plugin=self._name, hook=hook, error=tally.error)
