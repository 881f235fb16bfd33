"""Tracks whether the API server answers, and reports a failure once, not with every attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from cubelet.sources.api.errors import ApiError, Refused
from cubelet.sources.api.resources import Resource, is_absent
from cubelet.sources.api.store import FILE
from cubelet.sources.problem import Problem

log = structlog.get_logger()
_WORTH_TELLING = 2
"""Failures in a row until one is reported: one alone may be a server's restart or an old token."""


@dataclass
class _Failure:
    """A kind's failures in a row: the first one's time, their number, and the last error."""

    resource: Resource
    since: datetime
    error: ApiError
    times: int = 1


class Contact:
    """Implements ``cubelet.sources.api.informer.Listener`` for all kinds.

    An unreachable server is one problem for all kinds together; a refusal is a problem of its kind.
    ``changed`` is called when the problems may have changed.
    """

    def __init__(
        self,
        server: Callable[[], str],
        changed: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._server = server
        self._changed = changed
        self._now = now
        self._failures: dict[str, _Failure] = {}
        self._away_since: datetime | None = None

    def reached(self, resource: Resource) -> None:
        """The server answers."""
        failure = self._failures.get(resource.kind)
        if failure is not None and failure.error.away:
            self.forget(resource)

    def works(self, resource: Resource) -> None:
        """The server's answers can be used."""
        self.forget(resource)

    def failed(self, resource: Resource, error: ApiError) -> None:
        """A request failed; it will be repeated."""
        failure = self._failures.pop(resource.kind, None)
        if failure is None or failure.error.away != error.away:
            failure = _Failure(resource, self._now(), error)
        else:
            failure.error, failure.times = error, failure.times + 1
        self._failures[resource.kind] = failure  # the last one to fail comes last
        if failure.times == _WORTH_TELLING and not error.away:
            log.warning("API request refused", kind=resource.kind, error=str(error))
        self._note()

    @property
    def away(self) -> bool:
        """Whether the server is away, as a whole."""
        return self._away_since is not None

    def problems(self) -> list[Problem]:
        """The current problems with the server."""
        found = [_refused(each) for each in self._told() if not each.error.away]
        away = [each for each in self._told() if each.error.away]
        if away:
            since = min(each.since for each in away)
            message = f"{self._name()} is away since {since:%Y-%m-%dT%H:%M:%SZ}: {away[-1].error}"
            found.append(Problem(FILE, 0, "", "", "", message))
        return found

    def _told(self) -> list[_Failure]:
        return [each for each in self._failures.values() if each.times >= _WORTH_TELLING]

    def _name(self) -> str:
        return self._server() or "the API server"

    def forget(self, resource: Resource) -> None:
        """Drop the failures of a kind."""
        if self._failures.pop(resource.kind, None) is not None:
            self._note()

    def _note(self) -> None:
        """Log when the server becomes unreachable and when it is back."""
        away = [each for each in self._told() if each.error.away]
        if away and self._away_since is None:
            self._away_since = min(each.since for each in away)
            log.warning("API server away", server=self._name(), error=str(away[-1].error))
        elif not away and self._away_since is not None:
            seconds = (self._now() - self._away_since).total_seconds()
            self._away_since = None
            log.info("API server back", server=self._name(), seconds=round(seconds, 1))
        self._changed()


def _refused(failure: _Failure) -> Problem:
    custom = failure.resource.custom
    if custom is not None and is_absent(failure.resource, failure.error):
        message = (
            f"there is no CustomResourceDefinition {custom.definition} on the server: apply it"
        )
        return Problem(FILE, 0, failure.resource.kind, "", "", message)
    message = f"{failure.resource.plural} cannot be watched: {failure.error}"
    if isinstance(failure.error, Refused) and failure.error.code == 403:
        message += "; grant get, list and watch of them to the agent's account"
    return Problem(FILE, 0, failure.resource.kind, "", "", message)
