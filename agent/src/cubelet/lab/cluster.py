"""`lab up` and `lab down`: build the whole cluster, or leave nothing of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import msgspec

from cubelet.lab import admission, agents, api, netns, processes, wire
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Manifest
from cubelet.lab.layout import BPFFS_ROOT, RUN_ROOT, LabNode, LabSpec, Layout
from cubelet.lab.store import Store

Tell = Callable[[str], None]

_INTERRUPTS: Final = (signal.SIGTERM, signal.SIGHUP)


def up(layout: Layout, spec: LabSpec, tell: Tell) -> None:
    """Build the lab and wait until its agents are ready, reporting progress by `tell`.

    Raises LabError if it is up already, or if a step fails. After an error or a signal the lab is
    removed again.
    """
    _require_root()
    with locked(layout), interruptible():
        if layout.root.exists():
            raise LabError(f"lab {layout.name!r} is up: `cubelet lab down` ends it")
        try:
            _build(layout, spec, tell)
        except BaseException:
            tell("tearing down")
            tear_down(layout)
            raise


def down(layout: Layout) -> bool:
    """End the lab from any state; false if nothing of it was there."""
    _require_root()
    with locked(layout):
        there = layout.root.exists() or layout.bpffs.exists()
        there = there or bool(netns.matching(layout.netns_prefix))
        tear_down(layout)
    return there


def tear_down(layout: Layout) -> None:
    """Remove processes, then pins, then namespaces, then files, as far as they exist.

    Signals are blocked until it is done. Raises LabError at the end if objects of the lab are left
    on a foreign API server.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_INTERRUPTS})
    left: LabError | None = None
    try:
        try:
            api.withdraw(layout)
        except LabError as error:
            left = error
        names = netns.matching(layout.netns_prefix)
        processes.end_all(layout)
        processes.end_pids(netns.inhabitants(names))  # such as a command run by `lab exec`
        shutil.rmtree(layout.bpffs, ignore_errors=True)
        for name in names:
            netns.delete(name)
        shutil.rmtree(layout.root, ignore_errors=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if left:
        raise left


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the lab for one command that changes it; others wait."""
    RUN_ROOT.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            handle = stack.enter_context(layout.lock.open("w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The previous holder may have removed the file with its lab: then try again.
            if layout.lock.exists() and os.path.samestat(
                os.fstat(handle.fileno()), layout.lock.stat()
            ):
                break
        try:
            yield
        finally:
            if not layout.root.exists():
                layout.lock.unlink(missing_ok=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: through the clean-up."""

    def interrupt(number: int, _frame: FrameType | None) -> Any:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = [signal.signal(number, interrupt) for number in _INTERRUPTS]
    try:
        yield
    finally:
        for number, handler in zip(_INTERRUPTS, before, strict=True):
            signal.signal(number, handler)


def node_manifest(node: LabNode) -> Manifest:
    """The Node object of a lab's node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
        "spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _build(layout: Layout, spec: LabSpec, tell: Tell) -> None:
    layout.root.mkdir(parents=True)
    layout.spec.write_bytes(msgspec.json.encode(spec))
    wire.build(layout, spec)
    if spec.api:
        tell(f"objects are kept by {api.start(layout, spec)}")
    store = Store(layout)
    for node in spec.nodes:
        store.put(node_manifest(node))
    store.put(admission.namespace("default"))
    if spec.api:
        api.announce(layout, spec)
    layout.bpffs.mkdir(exist_ok=True)
    tell(f"{', '.join(node.name for node in spec.nodes)}: starting agents")
    agents.start(layout, spec)
    wire.serve_outside(layout)
    agents.wait_ready(layout, spec, tell)


def _require_root() -> None:
    if os.geteuid():
        raise LabError("the lab makes namespaces and loads eBPF: run it as root (sudo)")
    if not os.path.ismount(BPFFS_ROOT):
        raise LabError(f"no BPF file system: mount -t bpf bpf {BPFFS_ROOT}")
