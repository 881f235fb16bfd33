"""What goes wrong in a lab, told to its user."""

from __future__ import annotations


class LabError(Exception):
    """A lab command cannot do what was asked; the message is for the user, `detail` may be long.

    `detail` holds what explains the message, for example the tail of an agent's log.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
