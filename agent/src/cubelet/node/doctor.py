"""Checks by trial what this machine must offer, and names the remedy for what is missing.

Devices and attachments are tried in a network namespace that exists only for the length of the
check; maps and programs go with their descriptors. Nothing is left behind or changed.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cubelet.bpf.kernel import release as number_of

T = TypeVar("T")

MIN_KERNEL = (5, 10)
"""The first with `bpf_redirect_peer` and `bpf_redirect_neigh`."""

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CLONE_NEWNET = 0x40000000
_MACHINES = ("x86_64", "aarch64")

_INSTALL = {
    "debian": "apt-get install",
    "fedora": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
    "alpine": "apk add",
}
BCC = {
    "debian": "python3-bpfcc",
    "fedora": "python3-bcc",
    "suse": "python3-bcc",
    "arch": "python-bcc",
    "alpine": "py3-bcc",
}
"""The package of BCC's Python module, by family of distributions."""
UAPI = {
    "debian": "linux-libc-dev",
    "fedora": "kernel-headers",
    "suse": "linux-glibc-devel",
    "arch": "linux-api-headers",
    "alpine": "linux-headers",
}
"""The package of the kernel's UAPI headers, by family of distributions."""


@dataclass(frozen=True)
class Check:
    """One result; `remedy` is for the user, empty if `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str


@dataclass(frozen=True)
class Probe:
    """One check: `run` returns a text about what it found, or raises Missing."""

    name: str
    run: Callable[[], str]
    remedy: str


class Missing(Exception):
    """The machine lacks something; the text says what was seen."""


def run_checks(probes: Iterable[Probe] | None = None) -> tuple[Check, ...]:
    """Run the probes (all of them by default), one after the other; takes under a second."""
    return tuple(_check(probe) for probe in (PROBES if probes is None else probes))


def install_hint(packages: Mapping[str, str], os_release: Mapping[str, str] | None = None) -> str:
    """The command that installs a package on this distribution, or its names on all known ones."""
    found = _os_release() if os_release is None else os_release
    for family in (found.get("ID", ""), *found.get("ID_LIKE", "").split()):
        if family in packages:
            return f"{_INSTALL[family]} {packages[family]}"
    names = ", ".join(f"{package} ({family})" for family, package in packages.items())
    return f"install the package that your distribution has of: {names}"


def _check(probe: Probe) -> Check:
    try:
        return Check(probe.name, True, probe.run(), "")
    except Exception as error:  # a probe that breaks is a finding too, and others must run
        kind = "" if isinstance(error, Missing | OSError) else f"{type(error).__name__}: "
        return Check(probe.name, False, f"{kind}{error}", probe.remedy)


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def capabilities(status: str | None = None) -> str:
    """The user's capabilities, from /proc/self/status; raises Missing naming those that lack."""
    text = Path("/proc/self/status").read_text() if status is None else status
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    held = int(effective[1], 16) if effective else 0
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    if lacking:
        raise Missing(f"{user} without {', '.join(lacking)}")
    return f"{user} with {', '.join(_CAPABILITIES)}"


def kernel(release: str | None = None, machine: str | None = None) -> str:
    """The kernel's release and machine; raises Missing if either is not supported."""
    release, machine = release or platform.release(), machine or platform.machine()
    seen = f"{release} on {machine}"
    if number_of(release) < MIN_KERNEL or machine not in _MACHINES:
        raise Missing(seen)
    return seen


def _btf() -> str:
    # BTF is optional: programs are compiled on the machine they run on.
    if Path("/sys/kernel/btf/vmlinux").exists():
        return "/sys/kernel/btf/vmlinux"
    return "none; not needed, but bpftool shows less"


def _jit() -> str:
    from cubelet.bpf.programs import load
    from cubelet.bpf.tcx import RETURN_ZERO

    with load(RETURN_ZERO, "doctor") as program:
        if not program.info().jited_length:
            raise Missing("programs load, but are interpreted")
    return "programs load and are compiled"


def _maps() -> str:
    from cubelet.bpf.constants import MapFlags, MapType
    from cubelet.bpf.layout import MapLayout
    from cubelet.bpf.maps import BpfMap

    layouts = (
        MapLayout(MapType.HASH, 8, 8, 1),
        MapLayout(MapType.LRU_HASH, 8, 8, 1),
        MapLayout(MapType.LPM_TRIE, 8, 8, 1, MapFlags.NO_PREALLOC),
        MapLayout(MapType.PERCPU_ARRAY, 4, 8, 1),
        MapLayout(MapType.PROG_ARRAY, 4, 4, 1),
        MapLayout(MapType.RINGBUF, 0, 0, mmap.PAGESIZE),
    )
    for layout in layouts:
        BpfMap.create("doctor", layout).close()
    return ", ".join(layout.type.name.lower() for layout in layouts)


def _bpffs() -> str:
    from cubelet.bpf.fs import BPFFS, is_bpffs

    if not is_bpffs(BPFFS):
        raise Missing(f"{BPFFS} is not a bpf filesystem")
    return f"mounted on {BPFFS}"


def cgroup2(mounts: str | None = None) -> str:
    """Where the cgroup v2 tree is, from /proc/mounts; raises Missing if it is not mounted."""
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    for fields in map(str.split, text.splitlines()):
        if fields[2] == "cgroup2":
            return f"mounted on {fields[1]}"
    raise Missing("no cgroup v2 tree is mounted")


def _veth() -> str:
    _make_pair()
    return "a pair was created"


def _overlay() -> str:
    from cubelet.net import devices, rtnl

    with rtnl.session() as ipr:
        wanted = devices.Wanted("doctor0", "02:00:00:00:00:01", 1450)
        devices.bring_up(ipr, devices.ensure_overlay(ipr, wanted, port=4789))
    return "a device with external tunnel keys was created"


def _attachment() -> str:
    from cubelet.bpf import clsact
    from cubelet.bpf.programs import load
    from cubelet.bpf.tcx import RETURN_ZERO, Direction, TcxLink, tcx_supported

    ifindex = _make_pair()
    with load(RETURN_ZERO, "doctor") as program:
        if tcx_supported():
            TcxLink.create(ifindex, program, Direction.INGRESS).close()
            return "tcx"
        clsact.replace(ifindex, program, Direction.INGRESS)
        return "clsact; tcx comes with Linux 6.6"


def _make_pair() -> int:
    from cubelet.net import devices, rtnl

    ends = (
        devices.Wanted("doctor0", "02:00:00:00:00:01", 1500),
        devices.Wanted("doctor1", "02:00:00:00:00:02", 1500),
    )
    with rtnl.session() as ipr:
        link, _ = devices.ensure_pair(ipr, *ends)
    return link.index


def _in_new_netns(probe: Callable[[], T]) -> T:
    """Run `probe` in a network namespace of its own, which ends with the thread that it runs in."""

    def isolated() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise Missing(f"no network namespace could be created: {os.strerror(code)}")
        return probe()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(isolated).result()


def _bcc() -> str:
    try:
        module = importlib.import_module("bcc")
        return f"{module.__version__} in {Path(str(module.__file__)).parent}"
    except (ImportError, AttributeError) as error:  # PyPI's bcc is unrelated and has no version
        raise Missing(f"BCC's Python module does not load: {error}") from error


def _headers() -> str:
    from cubelet.composer.headers import HeadersMissing, UapiHeaders

    try:
        return f"in {UapiHeaders.find().linux}"
    except HeadersMissing as error:
        raise Missing(str(error)) from error


PROBES = (
    Probe(
        "privileges",
        capabilities,
        f"run as root (sudo); in a container, add the capabilities {', '.join(_CAPABILITIES)}",
    ),
    Probe(
        "kernel",
        kernel,
        f"boot Linux {MIN_KERNEL[0]}.{MIN_KERNEL[1]} or later on {' or '.join(_MACHINES)}",
    ),
    Probe("BTF", _btf, ""),
    Probe(
        "BPF programs",
        _jit,
        "run as root; sysctl -w net.core.bpf_jit_enable=1; "
        "the kernel needs CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_NET_CLS_BPF",
    ),
    Probe("BPF maps", _maps, "run as root; before Linux 5.11 also: ulimit -l unlimited"),
    Probe("bpffs", _bpffs, "mount -t bpf bpf /sys/fs/bpf"),
    Probe("cgroup v2", cgroup2, "mount -t cgroup2 none /sys/fs/cgroup"),
    Probe(
        "veth",
        partial(_in_new_netns, _veth),
        "run as root; modprobe veth, or a kernel with CONFIG_NET_NS and CONFIG_VETH",
    ),
    Probe(
        "VXLAN",
        partial(_in_new_netns, _overlay),
        "run as root; modprobe vxlan, or a kernel with CONFIG_VXLAN",
    ),
    Probe(
        "attachment",
        partial(_in_new_netns, _attachment),
        "run as root; modprobe -a sch_ingress cls_bpf, or a kernel with CONFIG_NET_SCH_INGRESS "
        "and CONFIG_NET_CLS_BPF",
    ),
    Probe(
        "BCC",
        _bcc,
        f"{install_hint(BCC)}; run cubelet by /usr/bin/python3 or in a venv that it made "
        "with --system-site-packages",
    ),
    Probe("UAPI headers", _headers, install_hint(UAPI)),
)
"""Everything that the agent and its composer need, in the order in which to mend it."""
