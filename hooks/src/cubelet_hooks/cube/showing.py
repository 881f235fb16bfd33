"""What a cube shows to operators: tables, metrics and commands of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from cubelet_hooks.command import UNKNOWN_METHOD, AgentError
from cubelet_hooks.context import Context
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.records import Record
from cubelet_hooks.view import View

Row = Mapping[str, object] | tuple[Record, Record]
"""A line of a table: values by column, or a map's key and value, whose fields are the columns."""

Read = Callable[[str], Mapping[Any, Any]]
"""Gives the records of one of the cube's maps, by its name, as they are when it is called.

Numbers kept per CPU are summed up; of an array those are left out that are all zero."""


class Showing:
    """Tables by ``cubelet get``, samples at ``/metrics``, commands as ``cubelet KIND ...``."""

    kind: ClassVar[str]

    shows: ClassVar[Mapping[str, str]] = {}
    """The nouns of ``cubelet get NOUN``, in the plural, each with the name of the map whose records
    :meth:`rows` lists, such as ``{"routes": "routes"}``."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """The metrics that :meth:`collect` samples for the agent's ``/metrics``: see
    :mod:`cubelet_hooks.metrics`."""
    commands: ClassVar[str] = ""
    """A Typer application, ``"package.module:app"``: its commands are ``cubelet KIND ...``. It is
    found by the package's entry point, whose name must be the kind, and imported only when one of
    the commands is called: see :mod:`cubelet_hooks.command`."""

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The table of ``cubelet get NOUN``, one of ``shows``: the records of its map as they are.

        Override it where readers need more, such as names for numbers. All rows given as values
        have the same columns, in one order; a value may be a list. The agent prints the names of
        an IP protocol's number in ``protocol``, an interface's in ``ifindex``, and enum members.
        """
        return read(self.shows[noun]).items()

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Samples of the :attr:`metrics` as they are now. Be quick: it is called at every scrape.

        If it raises, this scrape lacks the instance's samples.
        """
        return ()

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        """Answer ``cubelet_hooks.command.ask`` of the cube's commands with plain JSON values.

        Runs between the agent's passes. Raise AgentError for a caller's mistake.
        """
        raise AgentError(UNKNOWN_METHOD, f"{self.kind} has no method {method!r}")
