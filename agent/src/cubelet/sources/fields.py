"""Typed reading of plain Kubernetes documents; errors have the path to the field at fault."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cubelet_hooks.objects import Address, Network

T = TypeVar("T")
S = TypeVar("S", bound=str)
Path = tuple[str | int, ...]

_PLAIN_STEP = re.compile(r"[A-Za-z][A-Za-z0-9]*")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")  # RFC 6335, section 5.1
_PREFIX_LENGTH = re.compile(r"/[0-9]+$")
MAX_PORT = 65535
MAX_INT32 = 2**31 - 1


class FieldError(Exception):
    """The value at ``path`` is not what the API allows there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def dotted(path: Path) -> str:
    """Write a path the way Kubernetes does: ``spec.ports[0].port``, ``labels[example.com/a]``."""
    text = ""
    for step in path:
        if isinstance(step, str) and _PLAIN_STEP.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step}]"
    return text


@dataclass(frozen=True)
class Field:
    """A value within a document. Null counts as absent, as in the API.

    Every reader returns its ``default`` for an absent value and raises FieldError for a value of
    another type or outside the allowed range; a reader without a default requires a value.
    """

    value: object
    path: Path = ()

    @property
    def given(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    def error(self, message: str) -> FieldError:
        """An error about this field, for the caller to raise."""
        return FieldError(self.path, message)

    def __getitem__(self, name: str) -> Field:
        """The member of a mapping; every member of an absent mapping is absent."""
        return Field(self._mapping().get(name), (*self.path, name))

    def items(self) -> tuple[Field, ...]:
        """A list's items, in order; none when the list is absent."""
        if self.value is None:
            return ()
        if not isinstance(self.value, list | tuple):
            raise self.error(f"must be a list, is {_shown(self.value)}")
        return tuple(Field(item, (*self.path, number)) for number, item in enumerate(self.value))

    def each(self, read: Callable[[Field], T]) -> tuple[T, ...]:
        """The results of ``read`` for a list's items."""
        return tuple(read(item) for item in self.items())

    def text(self, default: str | None = "") -> str:
        """A string; ``default`` None: one that is not empty is required."""
        if not self.given and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self._wrong("a string")
        if not self.value and default is None:
            raise self.error("must not be empty")
        return self.value

    def name(self, longest: int = 253) -> str:
        """A required RFC 1123 subdomain, which is what an object's name has to be."""
        text = self.text(None)
        if len(text) > longest or not SUBDOMAIN.fullmatch(text):
            raise self.error(f"must be lower-case letters, digits, '-' and '.', is {_shown(text)}")
        return text

    def choice(self, options: tuple[S, ...], default: S | None = None) -> S:
        """One of ``options``; an empty string counts as absent."""
        if default is not None and self.value in (None, ""):
            return default
        for option in options:
            if self.value == option:
                return option
        raise self._wrong(f"one of {', '.join(options)}")

    def flag(self, default: bool = False) -> bool:
        """A boolean."""
        if not self.given:
            return default
        if not isinstance(self.value, bool):
            raise self._wrong("true or false")
        return self.value

    def number(self, low: int, high: int = MAX_INT32, default: int | None = None) -> int:
        """An integer from ``low`` to ``high``."""
        if not self.given and default is not None:
            return default
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wrong("an integer")
        if not low <= self.value <= high:
            raise self.error(f"must be from {low} to {high}, is {self.value}")
        return self.value

    def time(self) -> int | None:
        """A moment as the API writes it (RFC 3339), in seconds since 1970; None for none."""
        if not self.given:
            return None
        found = self.value
        if isinstance(found, str):
            try:
                found = datetime.fromisoformat(found)
            except ValueError:
                raise self._wrong("a time such as 2024-05-01T12:00:00Z") from None
        if not isinstance(found, datetime):  # YAML reads one that is not in quotes
            raise self._wrong("a time such as 2024-05-01T12:00:00Z")
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())

    def port(self) -> int:
        """A required port number, 1 to 65535."""
        return self.number(1, MAX_PORT)

    def port_name(self) -> str:
        """A required port name."""
        name = self.text(None)
        if len(name) > 15 or not PORT_NAME.fullmatch(name):
            raise self.error(
                "must be a number, or a name of at most 15 lower-case letters, digits and "
                f"single '-', with a letter; is {_shown(name)}"
            )
        return name

    def port_or_name(self) -> int | str:
        """A required int-or-string: a port number or a port's name."""
        return self.port_name() if isinstance(self.value, str) else self.port()

    def members(self) -> Iterator[tuple[str, Field]]:
        """A mapping's members by name; none when the mapping is absent."""
        for key, value in self._mapping().items():
            if not isinstance(key, str):
                raise self.error(f"the key {_shown(key)} must be a string: put it in quotes")
            yield key, Field(value, (*self.path, key))

    def strings(self) -> Mapping[str, str]:
        """A mapping of strings, such as labels."""
        return {key: field.text() for key, field in self.members()}

    def address(self) -> Address:
        """A required IPv4 or IPv6 address, without a zone."""
        text = self.text(None)
        try:
            if "%" not in text:
                return ipaddress.ip_address(text)
        except ValueError:
            pass
        raise self._wrong("an IP address")

    def network(self) -> Network:
        """A required CIDR; bits beyond the prefix are dropped, as the API tolerates them."""
        text = self.text(None)
        try:
            if _PREFIX_LENGTH.search(text) and "%" not in text:
                return ipaddress.ip_network(text, strict=False)
        except ValueError:
            pass
        raise self._wrong("a CIDR such as 10.0.0.0/16")

    def _mapping(self) -> Mapping[object, object]:
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            raise self.error(f"must be a mapping, is {_shown(self.value)}")
        return self.value

    def _wrong(self, wanted: str) -> FieldError:
        if not self.given:
            return self.error(f"is required: {wanted}")
        return self.error(f"must be {wanted}, is {_shown(self.value)}")


def _shown(value: object) -> str:
    """The value as text for a message: short, and showing its type."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
