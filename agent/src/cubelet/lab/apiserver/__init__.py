"""A stand-in for the Kubernetes API server: real HTTP, real lists and watches, faults on demand.

    with ApiServer(bookmarks=1.0).running() as url:   # in a thread; or `async with ….serving()`
        ...

To clients that list, watch and change objects it behaves as a server of version 1.36: one
increasing resourceVersion, pages from consistent snapshots, expiry. Of admission and controllers it
has only what a lab needs: Services get addresses and node ports, and, if asked for, EndpointSlices
follow pods. It sets no other defaults.
"""

from __future__ import annotations

from cubelet.lab.errors import LabError

try:
    from cubelet.lab.apiserver.server import ApiServer
except ModuleNotFoundError as error:
    raise LabError(
        f"the lab's API server needs {error.name}: pip install 'cubelet[lab-api]'"
    ) from error

__all__ = ["ApiServer"]
