"""The Cube class: everything the agent must know of a network function, and its planning.

:class:`Cube` is put together from four parts: where it stands (``places``), what it keeps and plans
(``plans``), what its C tells its Python (``telling``) and what it has for people (``showing``).
"""

from cubelet_hooks.cube.base import ABI, Cube, Reason, Settings
from cubelet_hooks.cube.places import PORT_CLASSES, UPLINK_EGRESS, Direction, Placed, Placement
from cubelet_hooks.cube.plans import Complaint, Entry, Part, Planned, Rank, Unit
from cubelet_hooks.cube.showing import Read, Row, Showing
from cubelet_hooks.cube.telling import Telling

__all__ = [
    "ABI",
    "PORT_CLASSES",
    "UPLINK_EGRESS",
    "Complaint",
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
