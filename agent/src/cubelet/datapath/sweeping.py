"""The program that sweeps a table of flows: it removes what is idle and counts what is left.

The kernel walks the table and calls back for each record (bpf_for_each_map_elem, Linux 5.13), so
a sweep costs the agent one system call whatever the table holds: 262,144 records take some 20 ms.
It is put together by hand because BCC makes no programs with callbacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cubelet.bpf.assembly import Assembly, R
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, load_assembly
from cubelet.composer.ends import Ended
from cubelet_hooks.flows import (
    PORT_SHARE_TOTAL,
    PORT_SHARES,
    SHARE_HASH,
    SHARE_TOTAL,
    SHARES,
    Flow,
    FlowFlag,
    FlowState,
    Hop,
    PortClass,
    Tuple,
)
from cubelet_hooks.records import Family, Record

_FOR_EACH, _DELETE, _JIFFIES = 164, 3, 118
_RESERVE, _SUBMIT, _DISCARD = 131, 132, 133
_UDP = 17

STATES = 4
PROTOCOLS = 256
REMOVED = STATES * PROTOCOLS
"""Words of the counts: of each state and protocol, then how many were removed."""
IDLE_UDP = REMOVED + 1
"""The word in which a sweep is told how many ticks a UDP flow may be idle, whatever it says."""
ENDS_LEFT = IDLE_UDP + 1
"""The word that says how many more records of ended flows a sweep may tell of."""
SHARES_AT = IDLE_UDP + 3
PORTS_AT = SHARES_AT + SHARES
WORDS = PORTS_AT + PORT_SHARES
"""All words: behind the counts those of owners and of translated ports, as in ``share.h``."""

_MAP, _KEY, _RECORD, _LIMIT = R(6), R(7), R(8), R(9)
_A, _B, _C, _D, _E = R(0), R(1), R(2), R(3), R(4)


@dataclass(frozen=True)
class Ends:
    """Where records of ended flows are told: the ring, and the count of those that are not."""

    ring: BpfMap
    lost: BpfMap


def load_sweep(
    table: BpfMap, counts: BpfMap, hz: int, owned: bool, family: Family, ends: Ends | None = None
) -> BpfProgram:
    """The program for one table. ``owned``: its records count in their owners' shares.

    ``counts`` is a map of one value of ``WORDS`` words. Raises BpfError before Linux 5.13.
    """
    code = Assembly()
    code.map(R(1), table.fd)
    code.function(R(2), "visit")
    code.alu(R(3), "=", 0)
    code.alu(R(4), "=", 0)
    code.call(_FOR_EACH)
    code.alu(_A, "=", 0)
    code.exit()
    _visit(code, counts.fd, hz, owned, family, ends)
    return load_assembly(code, "sweep", ["visit"])


def _visit(
    code: Assembly, counts: int, hz: int, owned: bool, family: Family, ends: Ends | None
) -> None:
    """long visit(map, key, record, context): 0 goes on to the next record."""
    code.label("visit")
    for kept, argument in ((_MAP, R(1)), (_KEY, R(2)), (_RECORD, R(3))):
        code.alu(kept, "=", argument)
    code.call(_JIFFIES)
    code.load(_B, _RECORD, _at(Flow, "last_seen", family), 4)
    code.alu(_A, "-", _B, bits=32)
    code.jump_if(_A, "s<", 0, "live", bits=32)  # stamped since the sweep began
    code.load(_LIMIT, _RECORD, _at(Flow, "timeout", family), 4)
    code.alu(_LIMIT, "*", hz)
    code.jump_if(_A, ">", _LIMIT, "idle")
    code.load(_B, _KEY, _at(Tuple, "protocol", family), 1)
    code.jump_if(_B, "!=", _UDP, "live")
    code.value(_B, counts, 4 * IDLE_UDP)
    code.load(_C, _B, 0, 4)
    code.jump_if(_A, ">", _C, "idle")
    code.label("live")
    _count_state(code, counts, family)
    if owned:
        _count_owner(code, counts, family)
    code.jump("next")
    code.label("idle")
    if ends:
        _copy_ended(code, counts, ends, family)
    code.alu(R(1), "=", _MAP)
    code.alu(R(2), "=", _KEY)
    code.call(_DELETE)
    if ends:
        _tell_ended(code)
    code.value(_B, counts, 4 * REMOVED)
    _increment(code, _B)
    code.label("next")
    code.alu(_A, "=", 0)
    code.exit()


def _copy_ended(code: Assembly, counts: int, ends: Ends, family: Family) -> None:
    """As cubelet_ended_begin() in ended.h; where the copy is, or 0, is then in _LIMIT."""
    code.alu(_LIMIT, "=", 0)
    code.load(_C, _RECORD, _at(Flow, "flags", family), 2)
    code.jump_if(_C, "&", FlowFlag.REPLIED, "replied")
    code.jump("copied")
    code.label("replied")
    code.value(_B, counts, 4 * ENDS_LEFT)
    code.load(_C, _B, 0, 4)
    code.jump_if(_C, "==", 0, "lost")
    code.alu(_C, "-", 1)
    code.store(_B, 0, _C, 4)
    code.map(R(1), ends.ring.fd)
    code.alu(R(2), "=", Ended.layout(family).size)
    code.alu(R(3), "=", 0)
    code.call(_RESERVE)
    code.jump_if(_A, "==", 0, "lost")
    code.alu(_LIMIT, "=", _A)
    _copy(code, _at(Ended, "key", family), _KEY, Tuple.layout(family).size, 4)
    _copy(code, _at(Ended, "flow", family), _RECORD, Flow.layout(family).size, 8)
    code.alu(_C, "=", 0)
    code.store(_LIMIT, _at(Ended, "paired", family), _C, 1)
    code.jump("copied")
    code.label("lost")
    code.value(_B, ends.lost.fd)
    code.load(_C, _B, 0, 8)
    code.alu(_C, "+", 1)
    code.store(_B, 0, _C, 8)
    code.label("copied")


def _copy(code: Assembly, to: int, source: R, size: int, step: int) -> None:
    """Copy to _LIMIT + to; _C is lost."""
    for offset in range(0, size, step):
        code.load(_C, source, offset, step)
        code.store(_LIMIT, to + offset, _C, step)


def _tell_ended(code: Assembly) -> None:
    """Tell it, unless a program has been faster and told."""
    code.jump_if(_LIMIT, "==", 0, "told")
    code.alu(R(1), "=", _LIMIT)
    code.alu(R(2), "=", 0)
    code.jump_if(_A, "==", 0, "tell")
    code.call(_DISCARD)
    code.jump("told")
    code.label("tell")
    code.call(_SUBMIT)
    code.label("told")


def _count_state(code: Assembly, counts: int, family: Family) -> None:
    code.load(_C, _RECORD, _at(Flow, "state", family), 1)
    code.alu(_C, "&", STATES - 1)
    code.alu(_C, "*", PROTOCOLS)
    code.load(_D, _KEY, _at(Tuple, "protocol", family), 1)
    code.alu(_C, "+", _D)
    code.value(_B, counts)
    _increment_at(code, _B, _C, STATES * PROTOCOLS - 1)


def _count_owner(code: Assembly, counts: int, family: Family) -> None:
    """As cubelet_charge() in share.h, of forward records that are replied and not closing."""
    code.load(_C, _RECORD, _at(Flow, "state", family), 1)
    code.jump_if(_C, "!=", FlowState.ESTABLISHED, "next")
    code.load(_C, _RECORD, _at(Flow, "flags", family), 2)
    code.jump_if(_C, "&", FlowFlag.REPLY, "next")
    enters = _at(Flow, "enters", family)
    code.load(_E, _RECORD, enters + _at(Hop, "port_class", family), 1)
    code.jump_if(_E, "==", PortClass.POD, "pod")
    code.jump_if(_E, "==", PortClass.OVERLAY, "remote")
    code.alu(_E, "&", 3)
    code.alu(_E, "+", 2 * SHARE_HASH)
    code.jump("owner")
    code.label("pod")
    code.load(_E, _RECORD, enters + _at(Hop, "ifindex", family), 4)
    _hash_owner(code)
    code.jump("owner")
    code.label("remote")
    code.load(_E, _RECORD, enters + _at(Hop, "remote", family), 4)
    _hash_owner(code)
    code.alu(_E, "+", SHARE_HASH)
    code.label("owner")
    code.value(_B, counts, 4 * (SHARES_AT + SHARE_TOTAL))
    _increment(code, _B)
    code.alu(_D, "=", _E)
    code.value(_B, counts, 4 * SHARES_AT)
    _increment_at(code, _B, _D, SHARES - 1)
    code.jump_if(_C, "&", FlowFlag.RANGE, "port")
    code.jump("next")
    code.label("port")
    _count_port(code, counts, family)


def _hash_owner(code: Assembly) -> None:
    code.alu(_E, "*", 0x9E3779B1, bits=32)
    code.alu(_E, ">>", 20, bits=32)


def _count_port(code: Assembly, counts: int, family: Family) -> None:
    """As cubelet_port_slots() in share.h; the owner's slot is in _E, the hash in _A."""
    to = _at(Flow, "to", family)
    dst = to + _at(Tuple, "dst", family)
    code.load(_A, _RECORD, dst, 4)
    for word in range(1, 1 if family == 4 else 4):
        code.load(_C, _RECORD, dst + 4 * word, 4)
        code.alu(_A, "^", _C)
    code.set64(_D, 0x9E3779B97F4A7C15)
    code.alu(_A, "*", _D)
    _mix(code, 29)
    code.load(_C, _RECORD, to + _at(Tuple, "dport", family), 2)
    code.alu(_C, "<<", 16)
    code.load(_D, _RECORD, to + _at(Tuple, "protocol", family), 1)
    code.alu(_C, "|", _D)
    code.alu(_A, "^", _C)
    code.set64(_D, 0xBF58476D1CE4E5B9)
    code.alu(_A, "*", _D)
    code.alu(_D, "=", _A)
    code.alu(_D, ">>", 50)
    code.value(_B, counts, 4 * (PORTS_AT + PORT_SHARE_TOTAL))
    _increment_at(code, _B, _D, PORT_SHARES - PORT_SHARE_TOTAL - 1)
    _mix(code, 32)
    code.alu(_A, "^", _E)
    code.set64(_D, 0x94D049BB133111EB)
    code.alu(_A, "*", _D)
    code.alu(_A, ">>", 48)
    code.value(_B, counts, 4 * PORTS_AT)
    _increment_at(code, _B, _A, PORT_SHARE_TOTAL - 1)


def _mix(code: Assembly, shift: int) -> None:
    """_A ^= _A >> shift; _D is lost."""
    code.alu(_D, "=", _A)
    code.alu(_D, ">>", shift)
    code.alu(_A, "^", _D)


def _increment_at(code: Assembly, base: R, index: R, mask: int) -> None:
    """base[index & mask] += 1, of 32-bit words; both registers and R5 are lost."""
    code.alu(index, "&", mask)
    code.alu(index, "<<", 2)
    code.alu(base, "+", index)
    _increment(code, base)


def _increment(code: Assembly, place: R) -> None:
    code.load(R(5), place, 0, 4)
    code.alu(R(5), "+", 1)
    code.store(place, 0, R(5), 4)


def _at(record: type[Record], name: str, family: Family) -> int:
    """Where a field stands in the record."""
    return next(f.offset for f in record.layout(family).fields if f.name == name)
