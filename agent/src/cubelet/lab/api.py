"""The API server of a lab: its own, in the outside namespace, or the one in KUBECONFIG."""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from cubelet.lab import netns, processes
from cubelet.lab.apistore import LABEL, ApiObjects
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import all_kinds, key_of
from cubelet.lab.layout import API_PORT, OUTSIDE_ADDRESS, LabSpec, Layout
from cubelet.lab.transport import KubeconfigTransport, NetnsTransport, Transport

SERVER: Final = "api"  # the name of the process of the server, or of the relay to it
HEARTBEAT: Final = "heartbeat"  # that of the process that renews leases on a foreign server
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_START_LIMIT: Final = 20.0  # seconds until it answers


class Record(msgspec.Struct, frozen=True):
    """Which server a lab uses: with ``foreign`` it is not the lab's own."""

    kubeconfig: str
    foreign: bool


def start(layout: Layout, spec: LabSpec) -> str:
    """Start the API server, or the relay to a foreign one; returns its description once it answers.

    The wire must exist. Raises LabError.
    """
    given = os.environ.get("KUBECONFIG", "")
    if os.pathsep in given:
        raise LabError(f"KUBECONFIG={given}: a lab takes one file")
    record = Record(str(Path(given).absolute()) if given else str(layout.kubeconfig), bool(given))
    layout.api.write_bytes(msgspec.json.encode(record))
    if given:
        _open_way(layout, spec, record)
    else:
        _start_own(layout)
    _wait(layout, _transport(layout, record))
    return f"the API server of {given}" if given else "an API server of the lab's own"


def settings(layout: Layout) -> dict[str, Any]:
    """The settings of an agent that takes its objects from the lab's API server."""
    return {"source": "kubernetes", "kubernetes": {"kubeconfig": _load(layout).kubeconfig}}


def objects_of(layout: Layout) -> ApiObjects:
    """The lab's objects on its API server."""
    return ApiObjects(transport_of(layout), layout.name if _load(layout).foreign else "")


def transport_of(layout: Layout) -> Transport:
    """The way to the lab's API server."""
    return _transport(layout, _load(layout))


def announce(layout: Layout, spec: LabSpec) -> None:
    """Start renewing the leases of the lab's stored nodes, if the server is a foreign one."""
    if _load(layout).foreign:
        argv = [sys.executable, "-m", "cubelet.lab.heartbeat", spec.name]
        processes.spawn(layout, HEARTBEAT, None, argv)


def withdraw(layout: Layout) -> None:
    """Remove the lab's objects from a foreign server; the lab's own server just ends.

    Raises LabError if that is not possible; the objects can then be found by the lab's label.
    """
    if not layout.api.exists() or not _load(layout).foreign:
        return
    processes.end(layout, [HEARTBEAT])
    transport = transport_of(layout)
    objects = ApiObjects(transport, layout.name)
    try:
        for kind in reversed([*all_kinds()]):
            for key in map(key_of, objects.list(kind.name)):
                objects.remove(key)
                if kind.name == "Node":
                    transport.call("DELETE", f"{LEASES}/{key.name}")
    except LabError as error:
        remedy = f"remove what has the label {LABEL}={layout.name} there"
        raise LabError(f"{error}; {remedy}") from error


def _start_own(layout: Layout) -> None:
    if find_spec("kmock") is None:  # check here, where the user sees the error
        raise LabError("the lab's API server needs kmock: pip install 'cubelet[lab-api]'")
    user = {"name": "lab", "user": {}}
    cluster = {"name": "lab", "cluster": {"server": f"http://{OUTSIDE_ADDRESS}:{API_PORT}"}}
    context = {"name": "lab", "context": {"cluster": "lab", "user": "lab"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [user],
        "contexts": [context],
        "current-context": "lab",
    }
    layout.kubeconfig.write_text(yaml.safe_dump(document, sort_keys=False))
    module = [sys.executable, "-m", "cubelet.lab.apiserver", "--controllers"]
    listen = ["--listen", f"{OUTSIDE_ADDRESS}:{API_PORT}"]
    state = ["--state", str(layout.root / "api-state.json")]
    processes.spawn(layout, SERVER, layout.outside_netns, [*module, *listen, *state])


def _open_way(layout: Layout, spec: LabSpec, record: Record) -> None:
    """Let the agents reach a foreign server at its own address, for which its certificate is.

    A relay listens at that address: in the nodes' namespaces if it is a loopback address, else in
    the outside, through which all other addresses are routed.
    """
    address, port = endpoint(record)
    if address.is_loopback:
        places = [layout.node_netns(node.name) for node in spec.nodes]
    else:
        places = [layout.outside_netns]
        netns.ip(["address", "add", f"{address}/32", "dev", "lo"], netns=layout.outside_netns)
    argv = [sys.executable, "-m", "cubelet.lab.relay", str(address), str(port), *places]
    processes.spawn(layout, SERVER, None, argv)


def endpoint(record: Record) -> tuple[ipaddress.IPv4Address, int]:
    """A foreign server's address and port. Raises LabError if a lab cannot reach it."""
    transport = KubeconfigTransport(Path(record.kubeconfig))
    url = urlsplit(transport.server)
    host = "127.0.0.1" if url.hostname == "localhost" else url.hostname or ""
    try:
        return ipaddress.IPv4Address(host), url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        message = f"kubeconfig {record.kubeconfig}: server {transport.server}"
        raise LabError(f"{message}: a lab reaches IPv4 addresses and localhost only") from None


def _transport(layout: Layout, record: Record) -> Transport:
    if record.foreign:
        return KubeconfigTransport(Path(record.kubeconfig))
    return NetnsTransport(layout.outside_netns, OUTSIDE_ADDRESS, API_PORT)


def _wait(layout: Layout, transport: Transport) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while True:
        try:
            answer = transport.call("GET", "/api/v1/namespaces/default")
        except LabError as error:
            problem = str(error)
        else:
            if answer.status == 200:
                return
            problem = f"the API server says {answer.body.get('message') or answer.status}"
        ended = not processes.alive(layout, SERVER)
        if ended or time.monotonic() > deadline:
            what = "the API server's process ended" if ended else problem
            raise LabError(what, processes.tail(layout.log(SERVER)))
        time.sleep(0.05)


def _load(layout: Layout) -> Record:
    try:
        return msgspec.json.decode(layout.api.read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise LabError(f"{layout.api}: {error}; `cubelet lab down` removes it") from None
