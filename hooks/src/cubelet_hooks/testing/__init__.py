"""The test kit: a cube's packets through real programs, by trial runs in the kernel.

Needs the ``cubelet`` distribution (the composer), scapy, root and BCC. A pytest plugin offers the
``datapath`` fixture; :class:`Datapath` can be used without pytest too.
"""

from cubelet_hooks.testing.datapath import Datapath, Result
from cubelet_hooks.testing.outlet import Outlet
from cubelet_hooks.testing.samples import local_node

__all__ = ["Datapath", "Outlet", "Result", "local_node"]
