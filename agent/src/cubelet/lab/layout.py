"""Names and paths of a lab.

All that a lab creates is named after it, so that `down` finds it by the lab's name alone, also
after a crash.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cubelet.lab.errors import LabError

RUN_ROOT: Final = Path("/run/cubelet-lab")
BPFFS_ROOT: Final = Path("/sys/fs/bpf")
NETNS_ROOT: Final = Path("/run/netns")

UNDERLAY: Final = ipaddress.IPv4Network("172.18.0.0/24")
OUTSIDE_ADDRESS: Final = str(UNDERLAY[100])
OUTSIDE_PORT: Final = 80
API_PORT: Final = 6443  # of the lab's own API server, at OUTSIDE_ADDRESS
FIRST_NODE: Final = 11  # host part of node1's address
MAX_NODES: Final = 64

SERVICE_CIDR: Final = ipaddress.IPv4Network("10.96.0.0/16")
DEFAULT_POD_CIDR: Final = ipaddress.IPv4Network("10.244.0.0/16")
NODE_PREFIX_LENGTH: Final = 24  # of a node's share of a pod CIDR, if that is large enough

_LONGEST_NETNS: Final = 64
_LAB_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,15}")


class LabNode(msgspec.Struct, frozen=True):
    """A node: its name, its address on the underlay and its pod CIDR."""

    name: str
    address: str
    pod_cidr: str


class LabSpec(msgspec.Struct, frozen=True):
    """The options of `lab up`; stored in the lab's folder as JSON.

    With ``api`` an API server keeps the objects instead of a folder of manifests.
    """

    name: str
    nodes: tuple[LabNode, ...]
    settings: dict[str, object]
    api: bool = False


@dataclass(frozen=True)
class Layout:
    """Paths and names of the lab `name`, which has no hyphen: `cubelet-NAME-` is unambiguous."""

    name: str

    def __post_init__(self) -> None:
        if not _LAB_NAME.fullmatch(self.name):
            raise LabError(
                f"lab name {self.name!r}: a letter, then up to 15 letters or digits, lower case"
            )

    @property
    def root(self) -> Path:
        """The lab's folder; its existence means that the lab is up, or was not torn down."""
        return RUN_ROOT / self.name

    @property
    def manifests(self) -> Path:
        """The folder of objects, one file each, that every agent of the lab watches."""
        return self.root / "manifests"

    @property
    def api(self) -> Path:
        """The file that says how to reach the API server; absent if objects are in `manifests`."""
        return self.root / "api.json"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig for the lab's own API server."""
        return self.root / "kubeconfig"

    @property
    def staging(self) -> Path:
        """Where a manifest is written before it is renamed into `manifests`."""
        return self.root / "staging"

    @property
    def processes(self) -> Path:
        """The folder of the records of processes that the lab started."""
        return self.root / "processes"

    @property
    def spec(self) -> Path:
        """The file with the lab's `LabSpec`."""
        return self.root / "lab.json"

    @property
    def lock(self) -> Path:
        """The file that is locked by a command that changes the lab."""
        return RUN_ROOT / f"{self.name}.lock"

    @property
    def bpffs(self) -> Path:
        """The parent of the agents' folders for pins."""
        return BPFFS_ROOT / f"cubelet-{self.name}"

    def bpffs_of(self, node: str) -> Path:
        """Where the agent of `node` pins maps, programs and links."""
        return self.bpffs / node

    def node(self, node: str) -> Path:
        """The folder of one node."""
        return self.root / "nodes" / node

    def socket(self, node: str) -> Path:
        """The Unix socket of the agent of `node`."""
        return self.node(node) / "agent.sock"

    def cni_bin(self, node: str) -> Path:
        """Where the container runtime of `node` finds the CNI plugin."""
        return self.node(node) / "bin"

    def log(self, process: str) -> Path:
        """The file with the stderr of a process of the lab."""
        return self.root / "logs" / f"{process}.log"

    @property
    def netns_prefix(self) -> str:
        """The prefix of the names of this lab's network namespaces, and of no others."""
        return f"cubelet-{self.name}-"

    @property
    def wire_netns(self) -> str:
        """The namespace of the bridge that joins the nodes."""
        return f"{self.netns_prefix}wire"

    @property
    def outside_netns(self) -> str:
        """The namespace of the server outside the cluster."""
        return f"{self.netns_prefix}outside"

    def node_netns(self, node: str) -> str:
        """The namespace of a node."""
        return f"{self.netns_prefix}{node}"

    def pod_netns(self, namespace: str, pod: str) -> str:
        """The namespace of a pod; hashed where the plain name would be long or ambiguous."""
        plain = f"{self.netns_prefix}{namespace}-{pod}"
        if len(plain) <= _LONGEST_NETNS and "-" not in namespace:
            return plain
        digest = hashlib.sha256(f"{namespace}/{pod}".encode()).hexdigest()[:8]
        return f"{plain[: _LONGEST_NETNS - 9]}-{digest}"

    def load(self) -> LabSpec:
        """Return the spec of the running lab; raises LabError if the lab is not up."""
        try:
            return msgspec.json.decode(self.spec.read_bytes(), type=LabSpec)
        except FileNotFoundError:
            raise LabError(f"lab {self.name!r} is not up: start it with `cubelet lab up`") from None
        except msgspec.DecodeError as error:
            raise LabError(f"{self.spec}: {error}; `cubelet lab down` removes it") from None


def plan_nodes(count: int, pod_cidrs: tuple[str, ...]) -> tuple[LabNode, ...]:
    """Name and number `count` nodes.

    `pod_cidrs` is empty (the default range), one range to be split among the nodes, or one range
    for each node. Raises LabError for ranges that are malformed, too small, or overlap.
    """
    if not 1 <= count <= MAX_NODES:
        raise LabError(f"--nodes {count}: 1 to {MAX_NODES}")
    ranges = _ranges(count, tuple(_network(text) for text in pod_cidrs))
    for i, one in enumerate(ranges):
        if one.prefixlen > 29:
            raise LabError(f"--pod-cidr: {one} has no room for pods")
        for other in (*ranges[:i], UNDERLAY, SERVICE_CIDR):
            if one.overlaps(other):
                raise LabError(f"--pod-cidr: {one} overlaps {other}")
    return tuple(
        LabNode(f"node{i}", str(UNDERLAY[FIRST_NODE + i - 1]), str(ranges[i - 1]))
        for i in range(1, count + 1)
    )


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise LabError(f"--pod-cidr {text}: {error}") from None


def _ranges(
    count: int, given: tuple[ipaddress.IPv4Network, ...]
) -> tuple[ipaddress.IPv4Network, ...]:
    if given and len(given) == count:
        return given
    if len(given) > 1:
        raise LabError(f"--pod-cidr: {len(given)} ranges for {count} nodes: give one, or one each")
    base = given[0] if given else DEFAULT_POD_CIDR
    # As with kubeadm, the first share is not used, so that node N owns the Nth.
    prefix = max(NODE_PREFIX_LENGTH, base.prefixlen + count.bit_length())
    if prefix > 29:
        raise LabError(f"--pod-cidr: {base} is too small for {count} nodes")
    size = 1 << (32 - prefix)
    first = int(base.network_address)
    return tuple(ipaddress.IPv4Network((first + i * size, prefix)) for i in range(1, count + 1))
