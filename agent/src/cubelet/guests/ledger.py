"""What a guest has to its account: what was stopped, until when that is not asked again. Pure.

What a tenant's object leads to is the tenant's: it is not asked about for a while, twice as long
each time, and after several the namespace's other units are not either. The cube itself is at fault
when that happens to several namespaces, or to what is no namespace's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST, _LONGEST = 60.0, 3_600.0
"""Seconds in which what was stopped is not asked again: at first, and at most."""
_STRIKES = 3
"""Stops after which a namespace is not asked about, or the cube is at fault."""
_MOST = 1_000
"""Accounts that are kept: those that end first go."""
BUDGET, _SHARE = 8.0, 0.5
"""Seconds for which a guest may be asked at a stretch, and of each further second."""


@dataclass(frozen=True)
class Asked:
    """What a question is about: ``what`` in words, such as ``plan of pod default/a``.

    ``namespace`` is whose object it is about, '' for nobody's; what is asked of ``several`` things
    at once is asked of each again if it is stopped.
    """

    what: str
    namespace: str = ""
    several: bool = False


@dataclass
class _Account:
    stops: int = 0
    until: float = 0.0
    text: str = ""


class Ledger:
    """Of one kind of cube."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whats: dict[str, _Account] = {}
        self._namespaces: dict[str, _Account] = {}
        self._own: list[float] = []
        self._used, self._seen = 0.0, clock()
        self.fault = ""
        """Why the cube cannot be used, once that is so."""

    def bar(self, asked: Asked) -> str:
        """Why this is not asked now; '' if it may be."""
        now = self._clock()
        own = self._whats.get(asked.what)
        if own is not None and now < own.until:
            return own.text
        owner = self._namespaces.get(asked.namespace) if asked.namespace else None
        if owner is not None and owner.stops >= _STRIKES and now < owner.until:
            return f"objects of namespace {asked.namespace} have stopped it; the last: {owner.text}"
        return ""

    @property
    def resting(self) -> bool:
        """Whether it has used up its time, and is asked nothing for now."""
        return self._level(self._clock()) > BUDGET

    def spend(self, seconds: float) -> None:
        """It was asked for so long."""
        self._used = self._level(self._clock()) + seconds

    def _level(self, now: float) -> float:
        self._used = max(0.0, self._used - (now - self._seen) * _SHARE)
        self._seen = now
        return self._used

    def stop(self, asked: Asked, why: str) -> str:
        """It was stopped while it was asked this; what is told of it."""
        account = _raised(self._whats, asked.what, self._clock())
        pause = account.until - self._clock()
        text = f"{asked.what} was stopped: it {why}; it is asked again after {pause:.0f} s"
        account.text = text
        if asked.namespace:
            _raised(self._namespaces, asked.namespace, self._clock()).text = text
        else:
            self._own.append(self._clock())
        if self._strikes() >= _STRIKES:
            self.fault = f"{asked.what} was stopped: it {why}; {_STRIKES} such stops are too many"
        return text

    def _strikes(self) -> int:
        """How many namespaces have stopped it of late, and how often nobody's things did."""
        late = self._clock() - _LONGEST
        self._own = [each for each in self._own if each > late]
        return len(self._own) + sum(each.until > late for each in self._namespaces.values())

    def forgive(self) -> None:
        """Another configuration is another chance."""
        self._whats.clear()
        self._namespaces.clear()
        self._own, self.fault = [], ""


def _raised(accounts: dict[str, _Account], name: str, now: float) -> _Account:
    if name not in accounts and len(accounts) >= _MOST:
        del accounts[min(accounts, key=lambda each: accounts[each].until)]
    account = accounts.setdefault(name, _Account())
    account.stops = account.stops + 1 if now < account.until + _LONGEST else 1
    account.until = now + min(_LONGEST, _FIRST * 2.0 ** min(account.stops - 1, 10))
    return account
