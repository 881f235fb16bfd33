"""Hands what guests' hooks observe to their processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from cubelet.cubes.outside import Tally
from cubelet.guests.host import GuestError, Host
from cubelet.guests.ledger import Asked, Ledger
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.objects import Change

log = structlog.get_logger()
_AT_ONCE = 500
"""Calls of one question."""


class Observer:
    """The hooks of one package, called in its process after the pass that they observe."""

    def __init__(self, name: str, hooks: frozenset[str], host: Host) -> None:
        self._name = name
        self._host = host
        self._ledger = Ledger()
        self._calls: dict[str, list[dict[str, Any]]] = {hook: [] for hook in sorted(hooks)}

    @hookimpl
    def cubelet_changed(self, change: Change) -> None:
        """Have the package's hook called, if it has one."""
        self._note("cubelet_changed", change=change)

    @hookimpl
    def cubelet_composed(self, mode: str, instances: Sequence[str]) -> None:
        """Have the package's hook called, if it has one."""
        self._note("cubelet_composed", mode=mode, instances=instances)

    def _note(self, hook: str, **arguments: Any) -> None:
        if hook in self._calls:
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
