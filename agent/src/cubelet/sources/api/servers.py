"""The API servers of the cluster: one is asked at a time, and the next one if that is away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from cubelet_hooks.objects import Address, EndpointSlice

Reached = tuple[Address, int]
"""An address and a TCP port."""


class Servers:
    """URLs in the order in which they are tried, from the first again after the last.

    First come those of the settings; without any, the one that the credentials name. Then, if all
    of these speak TLS, ``endpoints``: where the cluster said last that its API servers are. Those
    prove who they are by a certificate of the same authority, as the others do, so a server that
    moved is found without anybody's changing a setting. ``names`` are the addresses that hosts'
    names had when they were last resolved: for when no DNS server can be reached.
    """

    def __init__(
        self,
        configured: Iterable[str] = (),
        endpoints: Iterable[Reached] = (),
        names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._configured = tuple(url.rstrip("/") for url in configured)
        self._credentials = ""
        self.endpoints = tuple(endpoints)
        self.names = dict(names or {})
        self._current = ""

    @property
    def current(self) -> str:
        """The URL that requests go to; empty until one is known."""
        known = self.urls
        if self._current not in known:
            self._current = known[0] if known else ""
        return self._current

    @property
    def urls(self) -> tuple[str, ...]:
        """All that are known."""
        own = self._configured or tuple(filter(None, (self._credentials,)))
        if not own or not all(url.startswith("https:") for url in own):
            return own
        return tuple(dict.fromkeys((*own, *map(_url, self.endpoints))))

    def by_credentials(self, url: str) -> None:
        """The credentials name this server."""
        self._credentials = url.rstrip("/")

    def failed(self, url: str) -> None:
        """A request to this server had no answer, or its server's error.

        Many requests fail with one server: only the first of them leads on to the next.
        """
        known = self.urls
        if url == self.current and known:
            self._current = known[(known.index(url) + 1) % len(known)]


def endpoints_of(found: EndpointSlice) -> tuple[Reached, ...]:
    """Where the API servers are, by the EndpointSlice that they keep: ready ones, ordered."""
    ports = [each.port for each in found.ports if each.name in ("https", "")]
    addresses = {a for each in found.endpoints if each.ready for a in each.addresses}
    ordered = sorted(addresses, key=lambda a: (a.version, int(a)))
    return tuple((address, port) for address in ordered for port in ports)


def host_of(url: str) -> str:
    """The name in a URL; empty if there is an address or nothing."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    try:
        ip_address(host)
    except ValueError:
        return host
    return ""


def _url(reached: Reached) -> str:
    address, port = reached
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"https://{host}:{port}"
