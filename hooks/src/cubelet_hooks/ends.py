"""What a cube is told of flows that have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cubelet_hooks.flows import Counter, FlowState, Hop, Tuple


@dataclass(frozen=True)
class EndedFlow:
    """A flow that has ended, with all that it has carried.

    ``sent`` is the tuple of its packets as the opener sent them, ``became`` the one they left with,
    translated or not; ``enters`` and ``leaves`` are the ports of that direction. Of its ``state``
    it was CLOSING (closed by both sides, or reset), ESTABLISHED (idle for too long, or its pod is
    gone) or PENDING: a question and its answer, as of DNS. ``forward`` and ``reply`` count frames
    and their bytes, see :class:`~cubelet_hooks.flows.Flow`. ``fields`` and ``reply_fields`` are the
    cube's in the two directions' records (``Cube.flow_fields``), None for a cube without any. Of a
    record that was evicted before, all is zero or None.
    """

    sent: Tuple
    became: Tuple
    enters: Hop
    leaves: Hop
    state: FlowState
    forward: Counter
    reply: Counter
    fields: Any = None
    reply_fields: Any = None
