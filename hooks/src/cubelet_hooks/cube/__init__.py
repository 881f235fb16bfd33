"""The Cube class: everything the agent must know of a network function, and its planning.

:class:`Cube` has four bases: its place in a composition (``places``), its maps and planning
(``plans``), events and packets from its C to its Python (``telling``), and its tables, metrics and
commands (``showing``).
"""

from cubelet_hooks.cube.base import ABI, Cube, Reason, Settings
from cubelet_hooks.cube.places import PORT_CLASSES, UPLINK_EGRESS, Direction, Placed, Placement
from cubelet_hooks.cube.plans import Complaint, Condition, Entry, Part, Planned, Rank, Unit
from cubelet_hooks.cube.showing import Read, Row, Showing
from cubelet_hooks.cube.telling import Telling

__all__ = [
    "ABI",
    "PORT_CLASSES",
    "UPLINK_EGRESS",
    "Complaint",
    "Condition",
    "Cube",
    "Direction",
    "Entry",
    "Part",
    "Placed",
    "Placement",
    "Planned",
    "Rank",
    "Read",
    "Reason",
    "Row",
    "Settings",
    "Showing",
    "Telling",
    "Unit",
]
