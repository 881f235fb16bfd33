"""Asks a guest, within limits: keeps its process in step with the state, and starts it anew."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from cubelet.bpf.maps import BpfMap
from cubelet.guests.answers import DECODED, MAPPED, RAISED, SHORT, TOLD, Reply
from cubelet.guests.ledger import BUDGET, Asked, Ledger
from cubelet.guests.process import Limit, Process, StoppedError
from cubelet_hooks.command import AgentError
from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import Change, Object

log = structlog.get_logger()
QUESTION = Limit(cpu=2, wall=5)
"""Of what is asked of a cube's Python."""
_IMPORT = Limit(cpu=10, wall=30)
"""Of the package's import, which the agent has done as well."""
_TAKING_IN = Limit(cpu=30, wall=60)
"""Of the state's copy, which is no code of the guest's, and grows with the cluster."""
_AT_ONCE, _SIZE = 1_000, 8 << 20
"""Changes of one message, and its bytes unless one alone has more."""
_ENDING = "the agent is ending"
_RESTING = f"it has been asked for over {BUDGET:g} s, and waits for its next turn"


class GuestError(Exception):
    """A guest could not answer: the text says why."""

    def __repr__(self) -> str:
        return str(self)


class NotNowError(GuestError):
    """A guest is not asked at the moment, and nothing is wrong with what it would be asked."""


@dataclass
class _Instance:
    """What the process has to know of an instance, and what it knows already."""

    cube: Cube
    number: int
    maps: dict[str, int] = field(default_factory=dict)
    made: bool = False
    served: bool = False

    def close(self) -> None:
        for descriptor in self.maps.values():
            os.close(descriptor)
        self.maps = {}


class Host:
    """The process of one package, of whose cubes' instances any may be asked.

    ``state`` has all objects, for a process that starts. All but :meth:`end` is called by the one
    thread that makes passes.
    """

    def __init__(self, module: str, state: Iterable[Object]) -> None:
        self._module = module
        self._path = list(sys.path)
        self._state = state
        self._process: Process | None = None
        self._pending: list[Change] = []
        self._instances: dict[int, _Instance] = {}
        self._numbers = 0
        self._ended = threading.Event()

    def retain(self, cubes: Iterable[Cube]) -> None:
        """Forget all other instances; without any there is no process."""
        kept = {id(cube) for cube in cubes}
        for key in self._instances.keys() - kept:
            gone = self._instances.pop(key)
            gone.close()
            if gone.made and self._process is not None:
                with suppress(StoppedError, GuestError):
                    self._tell("forget", gone.number)
        if not self._instances:
            self._close()

    def changed(self, change: Change) -> None:
        """The state has changed: the process is told before it is asked the next time."""
        if self._process is not None:
            old = None if change.new else change.old
            self._pending.append(Change(change.kind, change.key, old, change.new))

    def serve(self, cube: Cube, maps: Mapping[str, BpfMap]) -> None:
        """Let an instance use its maps among these, and the epochs, until others are given."""
        found = self._of(cube)
        found.close()
        wanted = (f"{cube.instance}_", "cubelet_epochs")
        found.maps = {n: os.dup(each.fd) for n, each in maps.items() if n.startswith(wanted)}
        found.served = False

    def any_of(self, kind: type[Cube]) -> Cube:
        """An instance of a kind. Raises GuestError if none has been asked yet."""
        for each in self._instances.values():
            if isinstance(each.cube, kind):
                return each.cube
        raise GuestError(f"no instance of {kind.kind} is known")

    def ask(self, cube: Cube | None, ledger: Ledger, asked: Asked, method: str, *given: Any) -> Any:
        """The answer of an instance, or of the package (None).

        Raises GuestError, and AgentError if that is the answer.
        """
        if self._ended.is_set():
            raise NotNowError(_ENDING)
        if ledger.resting:
            raise NotNowError(_RESTING)
        if barred := ledger.bar(asked):
            raise GuestError(barred)
        began = time.monotonic()
        try:
            answer = self._ask(cube, method, given)
            return msgspec.msgpack.decode(answer, type=DECODED.get(method, Any))
        except StoppedError as error:
            if self._ended.is_set():
                raise NotNowError(_ENDING) from None
            if asked.several:
                raise GuestError(f"{asked.what} was stopped: it {error}") from None
            text = ledger.stop(asked, str(error))
            log.error("guest stopped", guest=self._module, reason=text)
            raise GuestError(text) from None
        except msgspec.ValidationError as error:
            raise GuestError(f"what it answers is none: {error}") from error
        finally:
            ledger.spend(time.monotonic() - began)

    def _of(self, cube: Cube) -> _Instance:
        if id(cube) not in self._instances:
            self._numbers += 1
            self._instances[id(cube)] = _Instance(cube, self._numbers)
        return self._instances[id(cube)]

    def _ask(self, cube: Cube | None, method: str, given: Any) -> msgspec.Raw:
        """Have a process that knows the state and the instance, and ask it."""
        if self._process is None:
            self._start()
        self._pass_on()
        if cube is None:
            return self._answer(QUESTION, -1, method, given)
        instance = self._of(cube)
        if not instance.made:
            settings = msgspec.to_builtins(cube.settings)
            self._tell("make", instance.number, cube.kind, cube.instance, settings, cube.family)
            instance.made = True
        if method in MAPPED and not instance.served:
            descriptors = list(instance.maps.values())
            self._tell("serve", instance.number, list(instance.maps), descriptors=descriptors)
            instance.served = True
        return self._answer(QUESTION, instance.number, method, given)

    def _start(self) -> None:
        for each in self._instances.values():
            each.made = each.served = False
        self._process = Process()
        if self._ended.is_set():  # whoever ended it has not seen this one
            self._process.kill()
        self._answer(_IMPORT, -1, "begin", (self._path, self._module))
        self._pending = [Change.between(None, each) for each in self._state]

    def _pass_on(self) -> None:
        """Tell the process what has changed in the state, some at a time."""
        count = _AT_ONCE
        while self._pending:
            question = pickle.dumps((-1, "changes", (self._pending[:count],)))
            if len(question) > _SIZE and count > 1:
                count //= 2
                continue
            self._reply(_TAKING_IN, question)
            del self._pending[:count]

    def _tell(self, method: str, *given: Any, descriptors: Sequence[int] = ()) -> None:
        self._answer(QUESTION, -1, method, given, descriptors)

    def _answer(
        self, limit: Limit, number: int, method: str, given: Any, descriptors: Sequence[int] = ()
    ) -> msgspec.Raw:
        return self._reply(limit, pickle.dumps((number, method, given)), descriptors)

    def _reply(self, limit: Limit, question: bytes, descriptors: Sequence[int] = ()) -> msgspec.Raw:
        assert self._process is not None
        try:
            reply = self._process.ask(question, descriptors, limit)
            found = msgspec.msgpack.decode(reply, type=Reply)
            if found.how == SHORT:  # who knows what is missing there now
                raise StoppedError(f"wanted more memory than it may have: {_text(found)}")
        except StoppedError:
            self._close()
            raise
        if found.how == TOLD:
            raise AgentError(*msgspec.msgpack.decode(found.answer, type=tuple[int, str, str]))
        if found.how == RAISED:
            raise GuestError(_text(found))
        return found.answer

    def _close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process, self._pending = None, []

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return self._process.pid if self._process is not None else None

    def end(self) -> None:
        """Whoever waits for an answer waits no longer, and nothing is asked any more.

        May be called by any thread.
        """
        self._ended.set()
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End, and wait for the process's end."""
        self.end()
        self.retain(())


def _text(found: Reply) -> str:
    return msgspec.msgpack.decode(found.answer, type=str)
