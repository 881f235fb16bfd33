"""A group of commands whose module is imported when one of them is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup


class LabGroup(TyperGroup):
    """The commands of `cubelet lab`, which need far more than those that ask the agent."""

    @cached_property
    def _group(self) -> TyperGroup:
        from cubelet.lab.cli import app

        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        return group

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands' names."""
        return self._group.list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name, or None."""
        return self._group.get_command(ctx, cmd_name)
