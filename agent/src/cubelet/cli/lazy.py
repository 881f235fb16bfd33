"""Groups of commands whose modules are imported when one of them is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup

from cubelet.console.output import told


class LabGroup(TyperGroup):
    """The commands of `cubelet lab`, which import far more than those that ask the agent."""

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


class RootGroup(TyperGroup):
    """The commands of `cubelet`; a first word that is none of them may be an installed cube's."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name, or None. Raises CommandError for a cube without commands."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from cubelet.cli.kinds import commands_of

        return commands_of(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; errors of a cube's commands are printed as our own are."""
        with told():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word; the error for an unknown one suggests similar names."""
        word = args[0]
        if self.get_command(ctx, word) is None and not ctx.resilient_parsing:
            from difflib import get_close_matches

            from cubelet.cli.kinds import installed

            close = get_close_matches(word, [*self.commands, *installed()])
            meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            ctx.fail(f"No such command {word!r}, and no cube of this name is installed.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write our own commands, then how to find those of cubes."""
        from cubelet.cli.kinds import installed

        super().format_commands(ctx, formatter)
        kinds = installed()
        if kinds:
            with formatter.section("Cubes"):
                formatter.write_text(
                    f"Cubes may bring commands: cubelet KIND --help. Installed: {', '.join(kinds)}."
                )
