"""Ends what a cube does not end: a question that takes too long, or an answer that goes on."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
MOST = 100_000
"""Items of one answer; of the sample objects no cube has so much to say."""
_CPU = 3.0
"""Seconds of the processor's time for one question, whatever else the machine does."""
_REAL = 10.0
"""Seconds for one that waits, such as for a lock or the network."""
_AGAIN = 1.0
"""Seconds until it is stopped once more, if it has caught the exception."""
_STANDARD_ERROR = 2
_LAST = 20.0
"""Seconds after which the whole check ends, because no exception can stop the question."""


class EndlessError(BaseException):
    """The cube did not end; no Exception, so that a plan which catches those does not go on.

    ``question`` is what it was asked: one of its methods.
    """

    question = ""


@contextmanager
def ended(cpu: float = _CPU, real: float = _REAL, last: float = _LAST) -> Iterator[None]:
    """Raise EndlessError inside the block when it takes too long; for the main thread alone.

    ``cpu`` and ``real`` are seconds of this process's own time and of the clock. What nothing can
    interrupt, such as a loop in C, ends the process ``last`` seconds after the clock's limit at the
    latest, with its place on standard error.
    """

    def stop(_: int, __: FrameType | None) -> None:
        raise EndlessError(f"was stopped after {cpu:g} s of the processor, or {real:g} s in all")

    signals = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        faulthandler.dump_traceback_later(real + last, exit=True, file=_STANDARD_ERROR)
        signal.setitimer(signal.ITIMER_PROF, cpu, _AGAIN)
        signal.setitimer(signal.ITIMER_REAL, real, _AGAIN)
        yield
    finally:
        for number, timer in signals.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        faulthandler.cancel_dump_traceback_later()


def asked(question: str, ask: Callable[[], T]) -> T:
    """What a cube answers. Raises EndlessError if it does not within the limits."""
    try:
        with ended():
            return ask()
    except EndlessError as error:
        error.question = question
        raise


def listed(items: Iterable[T]) -> list[T]:
    """The items of an answer. Raises EndlessError beyond :data:`MOST` of them."""
    found = list(islice(items, MOST + 1))
    if len(found) > MOST:
        raise EndlessError(f"goes on after {MOST} items")
    return found
