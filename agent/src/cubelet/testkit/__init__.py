"""The test kit: sends packets through a cube's real programs, by trial runs in the kernel.

Installed by ``pip install "cubelet[testkit]"``. Sending needs root and BCC, planning neither. A
pytest plugin offers the ``datapath`` fixture; :class:`Datapath` can be used without pytest too.
"""

from cubelet.testkit.collector import Collector
from cubelet.testkit.datapath import Datapath, Result
from cubelet.testkit.outlet import Outlet
from cubelet.testkit.samples import complaints, conditions, entries, installed, local_node, view

__all__ = [
    "Collector",
    "Datapath",
    "Outlet",
    "Result",
    "complaints",
    "conditions",
    "entries",
    "installed",
    "local_node",
    "view",
]
