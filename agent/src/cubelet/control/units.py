"""Which units changes may alter, as the cubes say; and who could not say so."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from cubelet.control.admission import Admission, Wish
from cubelet.control.wanted import Owned
from cubelet.control.wishes import checked_unit
from cubelet.guests.host import NotNowError
from cubelet.guests.proxy import Guest
from cubelet_hooks.cube import Cube, Unit
from cubelet_hooks.objects import Change, Port
from cubelet_hooks.view import View

log = structlog.get_logger()
_ERROR = 300
"""Letters of a cube's error that are told."""


class Units:
    """Asks the cubes. Objects that one cannot stand are refusals in ``admission``."""

    def __init__(self, cubes: Mapping[str, Cube], admission: Admission) -> None:
        self._cubes = cubes
        self._admission = admission
        self._of_port: dict[str, frozenset[Owned]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        """How long each instance has taken since this was cleared."""
        self.unasked: dict[Owned, tuple[Cube, Change]] = {}
        """What is asked again the next time, by ``("units", kind, key)``."""

    def of(self, changes: Sequence[Change], view: View) -> set[Owned]:
        """All units that these changes, or earlier ones that ``units`` failed on, may alter."""
        asked = [(cube, change) for change in changes for cube in self._cubes.values()]
        again, self.unasked = self.unasked, {}
        for cube in self._cubes.values():
            if isinstance(cube, Guest):
                with self.timed(cube.instance):
                    cube.look_ahead(changes)
        found: set[Owned] = set()
        for cube, change in (*again.values(), *asked):
            units = [(cube.instance, unit) for unit in self._units(cube, change, view)]
            found.update(units)
            if change.kind == Port.kind:
                self._note_port(change, units)
        return found

    def of_port(self, pod: str) -> frozenset[Owned]:
        """The units that are those of a pod's attachment alone."""
        return self._of_port.get(pod, frozenset())

    def _note_port(self, change: Change, units: Iterable[Owned]) -> None:
        if change.new is None:
            self._of_port.pop(change.key, None)
            return
        own = {owned for owned in units if owned[1][-1] == change.key}
        self._of_port[change.key] = self.of_port(change.key) | own

    def _units(self, cube: Cube, change: Change, view: View) -> Iterable[Unit]:
        owned = (cube.instance, ("units", change.kind, change.key))
        try:
            with self.timed(cube.instance):
                units = tuple(map(checked_unit, cube.units(change, view)))
        except NotNowError:
            self.unasked[owned] = cube, change
            return ()
        except Exception as error:  # a cube's bug must not stop the others
            about = Cube.object_of(cube, (change.kind, change.key), view)
            namespace = getattr(change.new or change.old, "namespace", "")
            reason = failed(self._admission, owned, error)
            self._admission.keep(Wish(owned, owned, namespace, about=about), reason)
            self.unasked[owned] = cube, change
            return ()
        self._admission.planned(owned)
        return units

    @contextmanager
    def timed(self, instance: str) -> Iterator[None]:
        """Take the block's time down as the instance's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[instance] += time.perf_counter() - began


def failed(admission: Admission, owned: Owned, error: Exception) -> str:
    """Log that a plan failed, once; what is told of it."""
    reason = repr(error)[:_ERROR]
    known = admission.refusals.get(owned)
    if known is None or known.reason != reason:
        log.error("a plan failed", cube=owned[0], unit=owned[1], error=reason)
    return reason
