"""What a cube has for people: tables, metrics and commands of its own."""

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
"""The records of one of the cube's maps, by its name: looked up when they are asked for.

Numbers kept per CPU are summed up; of an array those are left out that are all zero."""


class Showing:
    """Tables by ``cubelet get``, samples at ``/metrics``, commands as ``cubelet KIND ...``."""

    kind: ClassVar[str]

    shows: ClassVar[Mapping[str, str]] = {}
    """What ``cubelet get NOUN`` lists: nouns in the plural, each with the name of the map whose
    records :meth:`rows` makes the table of, such as ``{"routes": "routes"}``."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What :meth:`collect` gives, at the agent's ``/metrics``: see :mod:`cubelet_hooks.metrics`."""
    commands: ClassVar[str] = ""
    """A Typer application, ``"package.module:app"``: its commands are ``cubelet KIND ...``. Found
    by the package's entry point, which must be called as the kind is, and imported when they are
    asked for: see :mod:`cubelet_hooks.command`."""

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The table of ``cubelet get NOUN``, one of ``shows``: the records of its map as they are.

        Override it where people need more than that, such as names for numbers. All rows of values
        have the same columns, in one order; a value may be a list. ``protocol`` is an IP protocol's
        number, and ``ifindex`` an interface's: the agent names both, and members of enums.
        """
        return read(self.shows[noun]).items()

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Samples of the :attr:`metrics` as they are now: be quick, it is asked every few seconds.

        What it raises costs this instance its samples, this once.
        """
        return ()

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        """What ``cubelet_hooks.command.ask`` gives in the cube's commands: plain JSON values.

        Runs in the agent, between its passes. Raise AgentError for what the caller got wrong.
        """
        raise AgentError(UNKNOWN_METHOD, f"{self.kind} has no method {method!r}")
