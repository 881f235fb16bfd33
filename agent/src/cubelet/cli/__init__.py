"""The command `cubelet`.

Commands that ask the agent import only its client, to start quickly: neither kubernetes, bcc and
pyroute2 nor the modules of other commands.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; exits with the command's status."""
    from cubelet.cli.commands import app

    app(prog_name="cubelet")
