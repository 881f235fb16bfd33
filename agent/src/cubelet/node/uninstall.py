"""Removes cubelet from a node, which is then as it was before the first agent ran there.

The steps are independent: if one fails, the others are still done, and a second run does what the
first one could not. Only things with our own marks and names are removed.
"""

from __future__ import annotations

import errno
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cubelet.bpf import clsact
from cubelet.bpf.fs import pins, unlink, unlink_tree
from cubelet.bpf.tcx import Direction, TcxLink, tcx_supported
from cubelet.cni.attachments import AttachmentStore
from cubelet.cni.conf import remove_conflist
from cubelet.cni.deletions import Deletions
from cubelet.cni.install import PLUGIN, remove_plugin
from cubelet.config.node import Settings
from cubelet.ipc.client import DEFAULT_SOCKET
from cubelet.net import NetError, node, pods, rtnl

_STATE = re.compile(r"((ipam|memory)\.json|attachments)(\.unreadable)?|cubes|\..+\.tmp")
_CACHE = re.compile(r"[0-9a-f]{16}\..+|kernel-.+|\.?cubelet-cni.*")

Step = Callable[[], Iterator[str]]
"""Removes things of one sort, yields the name of each, and raises the error that stops it."""


class StillInUse(Exception):
    """The node still needs what would be removed; the text names the remedy."""


@dataclass
class Report:
    """The things that were removed, and those that could not be, each with its reason."""

    removed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def uninstall(settings: Settings, *, force: bool = False, keep_state: bool = False) -> Report:
    """Remove all that agents with these settings put on this node.

    ``keep_state`` leaves ``state_dir``, so that a later agent knows which addresses were in use.
    Raises StillInUse, without removing anything, while an agent answers, and while pods are
    attached unless ``force``, which cuts them off. Blocks.
    """
    if _answers(settings.socket):
        raise StillInUse(
            f"an agent answers on {settings.socket}: end it first "
            "(kubectl -n kube-system delete daemonset cubelet, or end `cubelet agent`)"
        )
    attached = _attached(settings)
    if attached and not force:
        raise StillInUse(
            f"pods are still attached: {', '.join(attached)}; "
            "drain the node first, or cut them off with --force"
        )
    report = Report()
    for name, step in _steps(settings, keep_state):
        try:
            for each in step():
                report.removed.append(each)
        except (NetError, OSError, ValueError) as error:
            report.failed.append(f"{name}: {error}")
    return report


def _steps(settings: Settings, keep_state: bool) -> Iterator[tuple[str, Step]]:
    # First, so that the runtime sends no more pods.
    yield "CNI configuration", partial(_configuration, settings.cni_conf)
    yield "CNI plugin", partial(_plugin, settings.cni_bin)
    yield "programs", partial(_programs, settings.bpffs / "links")
    yield "filters", _filters
    yield "pods' devices", _pods
    yield "node", lambda: iter(node.teardown())
    yield "pins", partial(_pins, settings.bpffs)
    yield "socket", partial(_socket, settings.socket)
    if not keep_state:
        yield "state", partial(_folder, settings.state_dir, _STATE)
    yield "cache", partial(_folder, settings.cache_dir, _CACHE)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except TimeoutError:
            return True  # it listens, but is busy
    return True


def _attached(settings: Settings) -> list[str]:
    """The attached pods: by name, or by device if the record is lost.

    Those that the runtime has deleted meanwhile are none, even if their devices are still there.
    """
    records = AttachmentStore(settings.state_dir / "attachments")
    names = {each.link.host_ifname: f"{each.namespace}/{each.name}" for each in records}
    deleted = {pods.host_ifname(*key) for key in Deletions(settings.socket).pending()}
    return sorted(names.get(each, each) for each in pods.list_wired() if each not in deleted)


def _configuration(path: Path | None) -> Iterator[str]:
    if path is not None and remove_conflist(path):
        yield str(path)


def _plugin(folder: Path | None) -> Iterator[str]:
    if folder is not None and remove_plugin(folder):
        yield str(folder / PLUGIN)


def _programs(links: Path) -> Iterator[str]:
    for pin in pins(links):
        with TcxLink.open(pin) as link:
            link.detach()
        unlink(pin)
        yield f"program on {pin.name}"


def _filters() -> Iterator[str]:
    """Remove clsact filters, which carry the programs without tcx and have no pins in bpffs."""
    if tcx_supported():
        return
    with rtnl.session() as ipr:
        found = rtnl.links(ipr)
    for link in found.values():
        clsact.remove(link.index, Direction.INGRESS)
        clsact.remove(link.index, Direction.EGRESS)
    yield "filters on all devices"


def _pods() -> Iterator[str]:
    for device in pods.list_wired():
        if pods.unwire(device):
            yield f"device {device}"


def _pins(bpffs: Path) -> Iterator[str]:
    if bpffs.exists():
        unlink_tree(bpffs)
        yield str(bpffs)


def _socket(path: Path) -> Iterator[str]:
    shutil.rmtree(Deletions(path).folder, ignore_errors=True)
    if unlink(path):
        yield str(path)
    # Any other folder may belong to other software.
    if path == Path(DEFAULT_SOCKET) and path.parent.is_dir():
        _rmdir(path.parent, errno.ENOTEMPTY)


def _folder(folder: Path, ours: re.Pattern[str]) -> Iterator[str]:
    """Remove agents' files from a folder, then the folder; OSError names files of others."""
    if not folder.is_dir():
        return
    strange = []
    for entry in sorted(folder.iterdir()):
        if not ours.fullmatch(entry.name):
            strange.append(entry.name)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if strange:
        raise OSError(f"{folder} holds what no agent put there, and stays: {', '.join(strange)}")
    _rmdir(folder)
    yield str(folder)


def _rmdir(folder: Path, *tolerated: int) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        # A folder that is mounted into this container can only be emptied: it is busy, and what
        # it is mounted on may be read-only, which the kernel looks at first.
        if error.errno not in {errno.EBUSY, errno.EROFS, *tolerated}:
            raise
