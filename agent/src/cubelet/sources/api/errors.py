"""The errors of requests to the API server."""

from __future__ import annotations

import msgspec

NOT_FOUND = 404
GONE = 410
_TOO_LARGE = "ResourceVersionTooLarge"


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Exceptions of decoding JSON: for bytes that are no JSON, and for too deep nesting."""


class ApiError(Exception):
    """A request without a usable answer; the text says why.

    ``retry_after`` is how many seconds the server asked to wait, 0 if it did not ask.
    """

    retry_after: float = 0.0

    @property
    def away(self) -> bool:
        """Whether the server as a whole is unavailable, rather than this one request refused."""
        return True


class Unreachable(ApiError):
    """The server cannot be reached, does not answer in time, or breaks off."""


class Untrusted(Unreachable):
    """TLS fails: the certificate authorities or certificates do not match, or have changed."""


class ConfigurationError(ApiError):
    """The configuration to reach the server is missing or unusable."""


class Garbled(ApiError):
    """The server's answer cannot be understood."""

    @property
    def away(self) -> bool:
        """False, since the server did answer."""
        return False


class Refused(ApiError):
    """The server answered with an error status, or sent one within a watch."""

    def __init__(self, code: int, status: Status, retry_after: float = 0.0) -> None:
        words = (f"{code}", status.reason, status.message)
        super().__init__(": ".join(word for word in words if word))
        self.code = code
        self.status = status
        self.retry_after = retry_after or float(status.details.retry_after)

    @property
    def away(self) -> bool:
        """True for overload, server errors and refused credentials, which concern all requests."""
        return self.code in (401, 408, 429) or self.code >= 500

    @property
    def gone(self) -> bool:
        """Whether the server does not have the requested resourceVersion.

        A version too old gives 410. One ahead of the server, as after its restoration from a
        backup, gives 504 with a cause that says so.
        """
        return self.code == GONE or any(
            cause.reason == _TOO_LARGE for cause in self.status.details.causes
        )


class Cause(msgspec.Struct, frozen=True):
    """One entry of a Status's ``details.causes``."""

    reason: str = ""
    message: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """The fields that we use of a Status's ``details``."""

    causes: tuple[Cause, ...] = ()
    retry_after: int = msgspec.field(default=0, name="retryAfterSeconds")


class Status(msgspec.Struct, frozen=True):
    """A ``metav1.Status``, in which the API server reports errors."""

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
