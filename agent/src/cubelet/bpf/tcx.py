"""tcx links (Linux 6.6): a program on a device's ingress or egress, replaced in one step."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from cubelet.bpf.attrs import LinkCreate, LinkDetach, LinkUpdate, TcxLinkInfoStruct
from cubelet.bpf.constants import AttachType, Cmd
from cubelet.bpf.objects import BpfObject, get_info, open_pin
from cubelet.bpf.programs import BpfProgram, load
from cubelet.bpf.syscalls import BpfError, bpf

RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")
"""The smallest program: r0 = 0; exit."""

_LINK_TYPE_TCX = 11
_NO_DEVICE = 0x7FFFFFFF


class Direction(Enum):
    """Which of a device's packets a program sees: those it receives or those it sends."""

    INGRESS = AttachType.TCX_INGRESS
    EGRESS = AttachType.TCX_EGRESS


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The kernel's info on a link; `ifindex` is 0 once it is detached or its device is gone."""

    id: int
    prog_id: int
    ifindex: int
    direction: Direction


class TcxLink(BpfObject):
    """An open tcx link. Unless pinned, closing it detaches the program."""

    @classmethod
    def create(cls, ifindex: int, program: BpfProgram, direction: Direction) -> TcxLink:
        """Attach `program` to a device of the current network namespace, after all others there."""
        label = f"link of {program.label} on {direction.name.lower()} of device {ifindex}"
        return cls(_create(ifindex, program.fd, direction, label), label)

    @classmethod
    def open(cls, path: Path | str) -> TcxLink:
        """The link pinned at `path`."""
        return cls(open_pin(path, "link"), f"link {Path(path).name}")

    def update(self, program: BpfProgram) -> None:
        """Replace the program; each packet meets exactly one. ENOLINK if the device is gone."""
        attr = LinkUpdate(link_fd=self.fd, new_prog_fd=program.fd)
        bpf(Cmd.LINK_UPDATE, attr, f"put {program.label} into", self.label)

    def detach(self) -> None:
        """Detach the program from the device, even if the link is pinned; twice is no error."""
        bpf(Cmd.LINK_DETACH, LinkDetach(link_fd=self.fd), "detach", self.label)

    def info(self) -> LinkInfo:
        """The kernel's account of the link, read now; EINVAL if it is of another type."""
        info = get_info(self.fd, TcxLinkInfoStruct(), self.label)
        if info.type != _LINK_TYPE_TCX:
            raise BpfError(errno.EINVAL, "inspect", self.label, "it is not a tcx link")
        return LinkInfo(info.id, info.prog_id, info.ifindex, Direction(info.attach_type))


@cache
def tcx_supported() -> bool:
    """Whether the kernel has tcx: it then reports a missing device, not a bad attach type."""
    with load(RETURN_ZERO, "tcx_probe") as program:
        try:
            fd = _create(_NO_DEVICE, program.fd, Direction.INGRESS, "probe for tcx")
        except BpfError as error:
            return error.errno == errno.ENODEV
    raise AssertionError(f"a program was attached to no device, as descriptor {fd}")


def _create(ifindex: int, program_fd: int, direction: Direction, label: str) -> int:
    attr = LinkCreate(prog_fd=program_fd, target_ifindex=ifindex, attach_type=direction.value)
    return bpf(Cmd.LINK_CREATE, attr, "create", label)
