"""The test kit: a cube's packets through real programs, by trial runs in the kernel.

Installed by ``pip install "cubelet[testkit]"``. Packets need root and BCC, plans need neither. A
pytest plugin offers the ``datapath`` fixture; :class:`Datapath` can be used without pytest too.
"""

from cubelet.testkit.datapath import Datapath, Result
from cubelet.testkit.outlet import Outlet
from cubelet.testkit.samples import complaints, entries, installed, local_node, view

__all__ = [
    "Datapath",
    "Outlet",
    "Result",
    "complaints",
    "entries",
    "installed",
    "local_node",
    "view",
]
