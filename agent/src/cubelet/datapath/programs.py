"""The programs in force on this node: loaded, attached, and replaced in one step per port.

Compositions are compiled and loaded beside the running one; only when everything is ready are
the attachments switched. A composition that fails leaves the running one as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from cubelet.bpf import clsact
from cubelet.bpf.fs import ensure_bpffs, pins, unlink, unlink_tree
from cubelet.bpf.links import Attachment, Mode
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.rcu import synchronize
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import Direction, tcx_supported
from cubelet.composer.compiler import Compile, Compiled, compile_source, source_identity
from cubelet.composer.composition import Composition
from cubelet.composer.core import Core
from cubelet.composer.loader import Programs, load_programs
from cubelet.composer.source import EGRESS, LOCAL, LOOPBACK_IFINDEX, Source, write_source
from cubelet.datapath.early import EarlyAttachment
from cubelet.datapath.maps import close_maps, open_maps
from cubelet_hooks.objects import LocalNode, Port

log = structlog.get_logger()
_OUTWARD = (LOCAL, EGRESS)
"""Entries on what a device sends; a composition may have none of them."""


@dataclass(frozen=True)
class Prepared:
    """A composition that is loaded but not in force yet.

    ``fresh`` says that the table of flows was made anew: records of what is open may be lost.
    """

    compiled: Compiled
    maps: dict[str, BpfMap]
    programs: Programs
    fresh: bool
    local: LocalNode

    def close(self) -> None:
        """Close programs and maps, if the composition is not put in force."""
        self.programs.close()
        close_maps({k: v for k, v in self.maps.items() if v is not self.programs.jumps})


class Datapath:
    """Owns pins below ``bpffs`` and the attachments of this node's devices."""

    def __init__(
        self, bpffs: Path, cache: Path, hz: int, compile: Compile = compile_source
    ) -> None:
        self._compile = compile
        self._bpffs = ensure_bpffs(bpffs)
        self._links = bpffs / "links"
        self._cache = cache
        self._hz = hz
        self._early = EarlyAttachment(self._links / "early")
        self._attached: dict[str, tuple[str, Attachment]] = {}
        self._folder: Path | None = None
        self._previous: list[Programs] = []
        self._jumps: BpfMap | None = None
        self.programs: Programs | None = None
        self.maps: dict[str, BpfMap] = {}
        self.compiled: Compiled | None = None

    @property
    def identity(self) -> str:
        """The hash of the composition in force (sources, settings, kernel); '' before the first."""
        return self.programs.identity if self.programs else ""

    def pinned(self) -> list[str]:
        """The identities of all pinned compositions: at a start, those that an earlier run left,
        which forward until one is put in force."""
        folder = self._bpffs / "programs"
        found = folder.iterdir() if folder.exists() else ()
        return sorted(each.name.partition("-")[0] for each in found)

    @property
    def sees_early(self) -> bool:
        """Whether the uplink's driver runs programs of ours."""
        return self._early.there

    def runs_alone(self, identity: str) -> bool:
        """Whether an earlier run left pinned programs of this composition and of no other."""
        return self.pinned() == [identity]

    def prepare(self, composition: Composition, core: Core, local: LocalNode) -> Prepared | None:
        """Compile and load a composition; None if it runs already. Blocks.

        Raises CompileError or BpfError, and what else ``compile`` raises. Nothing changes until
        :meth:`switch`; fill the prepared maps before that.
        """
        source = self._source(composition, core, local)
        same = self.compiled is not None and self.compiled.specs == source.specs
        if same and source_identity(source) == self.identity:
            return None
        compiled = self._compile(source, self._cache)
        known = {pin.name for pin in pins(self._bpffs / "maps")}
        maps = open_maps(compiled.specs, self._bpffs / "maps")
        tables = [f"{s.c_name}-{s.identity}" for s in compiled.specs if s.c_name == "cubelet_flows"]
        try:
            programs = load_programs(compiled, maps)
            fresh = not known.issuperset(tables)
            return Prepared(compiled, maps, programs, fresh, local)
        except BaseException:
            close_maps(maps)
            raise

    def verify(self, composition: Composition, core: Core, local: LocalNode) -> None:
        """Compile a composition that is not to be put in force. Raises as :meth:`prepare` does."""
        self._compile(self._source(composition, core, local), self._cache)

    def _source(self, composition: Composition, core: Core, local: LocalNode) -> Source:
        # by one NIC's driver or by none: of several, every one has to see its packets early
        early = bool(composition.early_stages()) and not local.further_uplinks
        early_xdp = early and self._early.ready(local.uplink_ifindex)
        return write_source(composition, core, local, self._hz, early_xdp=early_xdp)

    def switch(self, prepared: Prepared) -> dict[str, str]:
        """Put a prepared composition in force: each attachment in one step.

        What looks answers up comes before the programs whose flows need it, and goes after them.
        Raises BpfError, before anything has changed, if it cannot come. The result names the
        devices that could not be switched, each with the reason; they are no longer known as
        attached. All others run the new programs.
        """
        programs = prepared.programs
        folder = programs.pin(self._bpffs / "programs")
        if EGRESS in programs.entries:
            for name, ifindex in _uplinks(prepared.local, EGRESS):
                self._put(name, ifindex, EGRESS, programs)
        self._folder = folder
        failed = {}
        for name, (port_class, attachment) in sorted(
            self._attached.items(), key=lambda each: each[1][0] in _OUTWARD
        ):
            try:
                if port_class in programs.entries:
                    attachment.replace(programs.entries[port_class])
                    continue
                attachment.detach()
            except OSError as error:
                failed[name] = str(error)
            del self._attached[name]
        if self.programs is not None:
            self._previous.append(self.programs)
        old = {k: v for k, v in self.maps.items() if v is not self._jumps}
        self._jumps = programs.jumps
        self.programs, self.maps, self.compiled = programs, prepared.maps, prepared.compiled
        close_maps(old)
        return failed

    def close(self) -> None:
        """Close everything; attached and pinned programs keep forwarding."""
        for programs in (*self._previous, *([self.programs] if self.programs else [])):
            programs.close()
        close_maps({k: v for k, v in self.maps.items() if v is not self._jumps})
        self._previous, self.programs, self.maps = [], None, {}

    def retire(self) -> None:
        """Close and unpin all compositions but the one in force, once all ports run that one.

        The kernel empties a jump table when its last holder closes it, so this first waits until no
        packet is in an earlier program any more.
        """
        folder = ensure_bpffs(self._bpffs / "programs")
        others = [each for each in folder.iterdir() if each != self._folder]
        if not others and not self._previous:
            return
        synchronize()
        for each in others:
            unlink_tree(each)
        self._unpin_maps()
        for programs in self._previous:
            programs.close()
        self._previous = []

    def _unpin_maps(self) -> None:
        """Unpin maps that the composition does not use: of an earlier layout, or a removed cube."""
        used = (
            {f"{spec.c_name}-{spec.identity}" for spec in self.compiled.specs}
            if self.compiled
            else ()
        )
        for pin in pins(self._bpffs / "maps"):
            if used and pin.name not in used:
                unlink(pin)

    def attach(self, name: str, ifindex: int, port_class: str, quickly: bool = False) -> None:
        """Attach the class's program to a device; later compositions replace it there.

        ``quickly`` attaches by clsact, in a millisecond: to make a tcx link the kernel waits for an
        RCU grace period (some 15 ms) under the lock that all devices share. A second call without
        it replaces the filter by a tcx link.
        """
        self._put(name, ifindex, port_class, self._running, quickly)

    @property
    def _running(self) -> Programs:
        if self.programs is None:
            raise RuntimeError("nothing is composed yet")
        return self.programs

    def _put(
        self, name: str, ifindex: int, port_class: str, programs: Programs, quickly: bool = False
    ) -> None:
        pin = ensure_bpffs(self._links) / name.replace(".", "_")
        program = programs.entries[port_class]
        direction = Direction.EGRESS if port_class in _OUTWARD else Direction.INGRESS
        try:
            mode = Mode.CLSACT if quickly else None
            attachment = Attachment.attach(ifindex, program, pin, direction, mode)
        except BpfError:
            if not quickly:
                raise
            # a kernel without cls_bpf
            attachment = Attachment.attach(ifindex, program, pin, direction)
        known = self._attached.get(name)
        if known is not None and known[1].ifindex != ifindex:
            known[1].leave()
        self._attached[name] = (port_class, attachment)

    def detach(self, name: str) -> None:
        """Detach the program from a device, which may be gone."""
        known = self._attached.pop(name, None)
        if known is not None:
            known[1].detach()

    def knows(self, port: Port) -> bool:
        """Whether a pod's device runs a program, put there by this run or an earlier one."""
        pin = self._links / port.host_ifname.replace(".", "_")
        return port.host_ifname in self._attached or pin.exists()

    def attach_node(self, local: LocalNode) -> dict[str, str]:
        """Attach the node's own devices, and detach NICs that are uplinks no more.

        Raises BpfError. The result names attachments of further uplinks that failed, with reasons.
        """
        failed = {}
        main = ("host", "overlay", "uplink", *_OUTWARD)
        wanted = {
            "host": (local.datapath_ifindex, "host"),
            "overlay": (local.overlay_ifindex, "overlay"),
            **{name: (ifindex, "uplink") for name, ifindex in _uplinks(local, "uplink")},
            LOCAL: (LOOPBACK_IFINDEX, LOCAL),
            **{name: (ifindex, EGRESS) for name, ifindex in _uplinks(local, EGRESS)},
        }
        for name, (ifindex, port_class) in wanted.items():
            if port_class in self._running.entries:
                try:
                    self.attach(name, ifindex, port_class)
                except BpfError as error:
                    if name in main:
                        raise
                    failed[name] = str(error)
            elif not tcx_supported():  # what an earlier run left has no pin that would tell of it
                clsact.remove(ifindex, Direction.EGRESS)
        for name, (port_class, _) in tuple(self._attached.items()):
            if port_class in ("uplink", EGRESS) and name not in wanted:
                self.detach(name)
        return failed

    def run_early(self) -> None:
        """Have the uplink's driver run the composition's early program, if any. Raises BpfError."""
        if self.programs is not None:
            self._early.run(self.programs.early)

    def attach_pod(self, port: Port, quickly: bool = False) -> None:
        """Attach a pod's port."""
        self.attach(port.host_ifname, port.ifindex, "pod", quickly)

    def forget_strangers(self, keep: Mapping[str, Port]) -> None:
        """Detach devices that an earlier run attached and that are no pod's port any more."""
        names = {port.host_ifname.replace(".", "_") for port in keep.values()}
        names |= {"early", "host", "overlay", "uplink"}
        names |= {name for name, (kind, _) in self._attached.items() if kind != "pod"}
        for pin in pins(self._links):
            if pin.name not in names:
                unlink(pin)


def _uplinks(local: LocalNode, port_class: str) -> Iterator[tuple[str, int]]:
    """Names and ifindexes of the uplinks' attachments of a class."""
    for nic in local.uplinks:
        main = nic.ifindex == local.uplink_ifindex
        yield port_class if main else f"{port_class}-{nic.ifindex}", nic.ifindex
