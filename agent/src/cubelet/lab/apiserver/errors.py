"""Failures as the Kubernetes API reports them: a ``Status`` object with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cubelet.lab.apiserver.resources import Resource

_RETRY: Final = 1  # seconds after which clients are told to try again


class ApiError(Exception):
    """A request that fails with ``status``; ``status_object`` is what the client is sent.

    Reasons and messages are those of k8s.io/apimachinery/pkg/api/errors, by which clients
    distinguish failures.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    @property
    def status_object(self) -> dict[str, Any]:
        """The failure as a ``Status``."""
        details = {**self.details}
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            **({"details": details} if details else {}),
            "code": self.status,
        }

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def bad_request(message: str) -> ApiError:
    """400: the request is malformed."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no token, or one that is not accepted (any more)."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no object of that name."""
    return ApiError(
        404, "NotFound", f'{resource.key} "{name}" not found', details=_details(resource, name)
    )


def no_such_path() -> ApiError:
    """404: nothing is served under the path."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_allowed() -> ApiError:
    """405: the method cannot be used on this path."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message)


def exists(resource: Resource, name: str) -> ApiError:
    """409: an object of that name is there."""
    message = f'{resource.key} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """409: the object has changed since the client read it, or is another one."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    message = f'Operation cannot be fulfilled on {resource.key} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def expired(message: str, token: str = "") -> ApiError:
    """410: the requested version is no longer kept; ``token`` continues a list inconsistently."""
    return ApiError(410, "Expired", message, metadata={"continue": token} if token else None)


def unsupported_media(given: str) -> ApiError:
    """415: a patch of a type that is not understood."""
    message = (
        f"the body of the request was in an unknown format {given!r} - accepted media types "
        "include: application/json-patch+json, application/merge-patch+json, "
        "application/strategic-merge-patch+json"
    )
    return ApiError(415, "UnsupportedMediaType", message)


def invalid(resource: Resource, name: str, why: str) -> ApiError:
    """422: the object is well-formed but not valid."""
    message = f'{resource.kind} "{name}" is invalid: {why}'
    return ApiError(422, "Invalid", message, details=_details(resource, name))


def future_version(wanted: int, current: int) -> ApiError:
    """504: the server has not reached the requested resourceVersion yet."""
    message = f"Too large resource version: {wanted}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", message, details={"causes": causes}, retry_after=_RETRY)


def injected(status: int, retry_after: int | None) -> ApiError:
    """A failure that a test asked for."""
    reasons = {
        401: "Unauthorized",
        403: "Forbidden",
        404: "NotFound",
        409: "Conflict",
        410: "Expired",
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServiceUnavailable",
        504: "Timeout",
    }
    reason = reasons.get(status, "Unknown")
    return ApiError(status, reason, f"injected: {reason}", retry_after=retry_after)


def _details(resource: Resource, name: str) -> dict[str, Any]:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.plural}
