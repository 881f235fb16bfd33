"""The command `cubelet`.

Commands that ask the agent import only its client: kubernetes, bcc and pyroute2 stay out of their
start-up, and so does whatever another command needs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; exits with the command's status."""
    from cubelet.cli.commands import app

    app(prog_name="cubelet")
