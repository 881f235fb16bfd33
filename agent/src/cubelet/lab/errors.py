"""The error of lab commands."""

from __future__ import annotations

from cubelet.console.output import CommandError


class LabError(CommandError):
    """A lab command cannot do what was asked; `detail` may be the tail of an agent's log."""
