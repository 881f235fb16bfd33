"""What can go wrong between the agent and the API server."""

from __future__ import annotations

import msgspec

NOT_FOUND = 404
GONE = 410
_TOO_LARGE = "ResourceVersionTooLarge"


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises: for bytes that are none, and for what is nested too deeply."""


class ApiError(Exception):
    """A request did not lead to an answer that can be used; the text says why.

    ``retry_after`` is how many seconds the server asked to wait, 0 if it did not ask.
    """

    retry_after: float = 0.0

    @property
    def away(self) -> bool:
        """Whether the server as a whole is to blame, not this one request."""
        return True


class Unreachable(ApiError):
    """The server cannot be reached, does not answer in time, or breaks off."""


class Untrusted(Unreachable):
    """TLS does not come about: authorities or certificates do not fit, or not any more."""


class ConfigurationError(ApiError):
    """There is nothing to reach the server with: no kubeconfig, no service account."""


class Garbled(ApiError):
    """The server's answer cannot be understood."""

    @property
    def away(self) -> bool:
        """It did answer."""
        return False


class Refused(ApiError):
    """The server answered with a status that is no success, or said so within a watch."""

    def __init__(self, code: int, status: Status, retry_after: float = 0.0) -> None:
        words = (f"{code}", status.reason, status.message)
        super().__init__(": ".join(word for word in words if word))
        self.code = code
        self.status = status
        self.retry_after = retry_after or float(status.details.retry_after)

    @property
    def away(self) -> bool:
        """Overload, failures and unknown credentials concern all requests."""
        return self.code in (401, 408, 429) or self.code >= 500

    @property
    def gone(self) -> bool:
        """Whether the version asked for is one that the server does not have (any more).

        Too old: 410. Ahead of the server, as after its restoration from a backup: 504 with a
        cause that says so.
        """
        return self.code == GONE or any(
            cause.reason == _TOO_LARGE for cause in self.status.details.causes
        )


class Cause(msgspec.Struct, frozen=True):
    """One entry of a Status's ``details.causes``."""

    reason: str = ""
    message: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """A Status's ``details``, as far as they are used."""

    causes: tuple[Cause, ...] = ()
    retry_after: int = msgspec.field(default=0, name="retryAfterSeconds")


class Status(msgspec.Struct, frozen=True):
    """A ``metav1.Status``: how the API server says that something is wrong."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details = Details()


def status_of(body: bytes | msgspec.Raw) -> Status:
    """The Status in a body; of any other body, its first words are the message."""
    try:
        return msgspec.json.decode(body, type=Status)
    except UNREADABLE:
        text = " ".join(bytes(body)[:200].decode(errors="replace").split())
        return Status(message=text)


def short(error: BaseException) -> str:
    """An exception's text, or its name when it has none."""
    return str(error) or type(error).__name__
