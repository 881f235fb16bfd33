"""An API server process that serves a fleet's objects, and changes them on demand.

    python -m bench.apiserver ADDRESS PORT NODES SERVICES ENDPOINTS PODS [MANIFEST...]

It prints ``ready``, then answers each line of its input. ``move`` gives an endpoint of Service 0
another address; the answer is the monotonic time of that in seconds. ``churn RATE`` moves endpoints
of other Services RATE times a second from now on (0: stop); the answer is the number of moves so
far.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time

from bench import fleet
from bench.fleet import Fleet
from cubelet.lab.apiserver import ApiServer


class Churn:
    """Moves endpoints of random Services, evenly over time, in a thread."""

    def __init__(self, server: ApiServer, size: Fleet) -> None:
        self._server = server
        self._size = size
        self._random = random.Random(1)
        self.rate = 0.0
        self.done = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            if not self.rate:
                time.sleep(0.01)
                due = time.monotonic()
                continue
            due += 1 / self.rate
            time.sleep(max(0.0, due - time.monotonic()))
            number = self._random.randrange(1, self._size.services)
            self.done += 1
            self._server.put(fleet.endpoint_slice(self._size, number, 1 + self.done % 200))


def main(arguments: list[str]) -> None:
    """Serve until the input ends."""
    address, port, *sizes = arguments[:6]
    size = Fleet(*map(int, sizes))
    server = ApiServer()
    for manifest in arguments[6:]:
        server.put(json.loads(manifest))
    server.load("namespaces", fleet.namespaces())
    server.load("nodes", fleet.nodes(size))
    server.load("services", fleet.services(size))
    server.load("endpointslices", fleet.slices(size))
    server.load("pods", fleet.pods(size))
    churn, moves = Churn(server, size), 0
    with server.running(address, int(port)):
        print("ready", flush=True)
        for line in sys.stdin:
            command, *values = line.split()
            if command == "move":
                moves += 1
                moved = fleet.endpoint_slice(size, 0, 1 + moves % 200)
                print(time.monotonic(), flush=True)
                server.put(moved)
            else:
                churn.rate = float(values[0])
                print(churn.done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
