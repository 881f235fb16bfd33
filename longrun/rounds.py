"""What happens to pods in a round, and what must hold meanwhile and afterwards."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cubelet.ipc import client
from cubelet.lab import agents, netns, processes, traffic
from cubelet.lab.layout import LabSpec, Layout

from .containerd import Containerd
from .cri import CriError, Sandbox

NODE: Final = "node1"
_PODS: Final = 6
_FIRST_PORT: Final = 8000
_PORT: Final = 80
_PATIENCE: Final = 15.0
"""Seconds until a host port has to answer, and until what is deleted has to be gone."""

_COMPILING: Final = 120.0
"""Seconds that a composition may take."""


class Wrong(Exception):
    """Something is not as it should be."""


@dataclass(frozen=True)
class Pod:
    """A running sandbox, and the name by which its server answers."""

    asked: Sandbox
    id: str

    @property
    def server(self) -> str:
        """What its server calls itself."""
        return f"{self.asked.name}-{self.asked.attempt}"


class Rounds:
    """Makes rounds on a lab of one node."""

    def __init__(self, layout: Layout, spec: LabSpec, containerd: Containerd) -> None:
        self._layout = layout
        self._spec = spec
        self._containerd = containerd
        self._numbers = itertools.count()
        (self._address, *_) = (str(each) for each in self._status()["addresses"])

    def make(self, number: int) -> None:
        """Pods come, answer and go: with the agent, without it, and in place of others."""
        with self._running(f"together-{number}") as pods:
            self._expect_answers(pods)
            self._stop_all(pods)
        self._expect_nothing()

        with self._running(f"away-{number}") as pods:
            self._expect_answers(pods)
            processes.end(self._layout, [agents.process(self._spec.nodes[0])])
            self._expect_answers(pods)  # the datapath needs no agent
            self._stop_all(pods)  # nor does DEL
            agents.start(self._layout, self._spec)
            agents.wait_ready(self._layout, self._spec, lambda _: None)
        self._expect_nothing()

        with self._running(f"anew-{number}") as pods:
            old = pods[0]
            new = self._run(Sandbox(old.asked.name, "anew", old.asked.host_port, _PORT, attempt=1))
            self._expect_answers([new, *pods[1:]])
            self._stop(old)
            self._expect_answers([new, *pods[1:]])
            self._stop_all([new, *pods[1:]])
        self._expect_nothing()

    @contextmanager
    def _running(self, name: str) -> Iterator[list[Pod]]:
        """Pods that were started all at once; what is left of them is removed."""
        asked = [
            Sandbox(f"{name}-{n}", f"{name}-{n}", _FIRST_PORT + n, _PORT) for n in range(_PODS)
        ]
        try:
            with ThreadPoolExecutor(_PODS) as pool:
                pods = list(pool.map(self._run, asked))
        except CriError as error:
            raise Wrong(f"a pod does not start: {error}") from error
        # The first host port brings a cube to the uplink, which may have to be compiled.
        self._expect("what the agent waits for", [], lambda: self._status()["waiting"], _COMPILING)
        yield pods

    def _run(self, asked: Sandbox) -> Pod:
        pod = Pod(asked, self._containerd.runtime.run(asked))
        where = self._containerd.namespace_of(pod.id)
        processes.spawn_server(self._layout, pod.id, where, pod.server, [("TCP", _PORT)])
        return pod

    def _stop(self, pod: Pod) -> None:
        processes.end(self._layout, [pod.id])
        try:
            self._containerd.runtime.stop(pod.id)
            self._containerd.runtime.remove(pod.id)
        except CriError as error:
            raise Wrong(f"{pod.server} does not end: {error}") from error

    def _stop_all(self, pods: Sequence[Pod]) -> None:
        with ThreadPoolExecutor(_PODS) as pool:
            list(pool.map(self._stop, pods))

    def _expect_answers(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            self._expect(f"{pod.server} at its host port", pod.server, partial(self._who, pod))

    def _who(self, pod: Pod) -> str:
        where, port = self._layout.outside_netns, pod.asked.host_port
        answer = netns.run(where, traffic.who, self._address, port, "TCP", 1.0)
        return answer.server or str(answer.outcome)

    def _expect_nothing(self) -> None:
        self._expect("what is left of pods", ([], 0, []), self._left)

    def _left(self) -> tuple[list[str], int, list[str]]:
        state = self._layout.node(NODE) / "state"
        leases = json.loads((state / "ipam.json").read_text())["leases"]
        records = [path.name for path in (state / "attachments").iterdir()]
        return [each["address"] for each in leases], self._status()["ports"], records

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = client.call(str(self._layout.socket(NODE)), "status", {}, 30)
        if found["problems"]:
            raise Wrong(f"the agent has problems: {'; '.join(found['problems'])}")
        return found

    def _expect(
        self, what: str, wanted: object, find: Callable[[], object], seconds: float = _PATIENCE
    ) -> None:
        began = time.monotonic()
        while (found := find()) != wanted:
            if time.monotonic() - began > seconds:
                raise Wrong(f"{what}: {found} instead of {wanted} after {seconds:g} s")
            time.sleep(0.1)
