"""An agent without eBPF, for tests of the lab itself: the kernel routes between its pods."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec

from cubelet.cni import errors
from cubelet.cni.errors import CniError
from cubelet.cni.install import install_plugin
from cubelet.cni.relay import relay
from cubelet.lab import netns
from cubelet.lab.kinds import Key
from cubelet.lab.layout import LabNode, LabSpec, Layout
from cubelet.lab.store import Store


class StandInAgent:
    """Answers `status`, `sync` and `cni` on a node's socket while it is entered as a context.

    ADD honours `cubelet.io/ip` and refuses a pod whose annotation `test/refuse` is set.
    """

    def __init__(self, layout: Layout, spec: LabSpec, node: LabNode) -> None:
        self._store = Store(layout)
        self._node = node
        self._netns = layout.node_netns(node.name)
        self._range = ipaddress.IPv4Network(node.pod_cidr)
        self._free = (str(address) for address in itertools.islice(self._range.hosts(), 1, None))
        self.calls: list[str] = []
        netns.run(self._netns, _forward)
        for other in spec.nodes:
            if other != node:
                netns.ip(["route", "add", other.pod_cidr, "via", other.address], self._netns)
        path = layout.socket(node.name)
        path.parent.mkdir(parents=True)
        install_plugin(layout.cni_bin(node.name))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> StandInAgent:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            with connection, connection.makefile("rwb") as stream:
                request = json.loads(stream.readline())
                stream.write(json.dumps(self._reply(request)).encode() + b"\n")

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["method"] != "cni":
            return {"result": {"ready": True}}
        reply = asyncio.run(relay(self._cni, request["params"]))
        return {"result": msgspec.to_builtins(reply)}

    async def _cni(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(params["command"])
        if params["command"] == "DEL":
            return {}
        pod = Key("Pod", params["args"]["K8S_POD_NAMESPACE"], params["args"]["K8S_POD_NAME"])
        annotations = (self._store.get(pod) or {})["metadata"].get("annotations") or {}
        if "test/refuse" in annotations:
            raise CniError(errors.TRY_AGAIN_LATER, "refused", "by test")
        address = annotations.get("cubelet.io/ip") or next(self._free)
        self._attach(params["netns"].rpartition("/")[2], address)
        ip = {"address": f"{address}/{self._range.prefixlen}"}
        return {"cniVersion": "1.1.0", "ips": [ip]}

    def _attach(self, pod: str, address: str) -> None:
        device = f"v{address}"
        lines = [
            f"link add {device} type veth peer name eth0 netns {pod}",
            f"link set {device} up",
            f"route add {address} dev {device}",
        ]
        netns.ip_batch(lines, self._netns)
        router = self._node.address
        netns.ip_batch(
            [
                f"address add {address} dev eth0",
                "link set eth0 up",
                f"route add {router} dev eth0",
                f"route add default via {router}",
            ],
            pod,
        )


def _forward() -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
        switch.write("1")
