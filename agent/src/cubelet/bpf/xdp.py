"""XDP links: a device's driver runs a program on every frame; it is replaced in one step."""

from __future__ import annotations

import errno
from pathlib import Path

from cubelet.bpf.attrs import LinkCreate, LinkUpdate, TcxLinkInfoStruct
from cubelet.bpf.constants import AttachType, Cmd, ProgType
from cubelet.bpf.objects import BpfObject, get_info, open_pin
from cubelet.bpf.programs import BpfProgram, load
from cubelet.bpf.syscalls import BpfError, bpf

_DRIVER_MODE = 1 << 2
"""XDP_FLAGS_DRV_MODE: without it the kernel would run the program after making an sk_buff."""
_PASS = bytes.fromhex("b7000000020000009500000000000000")
"""r0 = XDP_PASS; exit."""
_NO_XDP = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)
"""Errors of a driver without XDP, or without XDP for this device's MTU, rings or offloads."""


class XdpLink(BpfObject):
    """An open XDP link in driver mode. Unless pinned, closing it detaches the program."""

    @classmethod
    def create(cls, ifindex: int) -> XdpLink | None:
        """Attach a program that lets everything pass; None if the driver has no XDP.

        Raises BpfError, EBUSY when another program is attached. Some drivers set their receive
        rings up anew for it, which can lose packets, so a new program is put into the link later.
        """
        label = f"XDP link of device {ifindex}"
        with load(_PASS, "cubelet_pass", ProgType.XDP) as program:
            attr = LinkCreate(
                prog_fd=program.fd,
                target_ifindex=ifindex,
                attach_type=AttachType.XDP,
                flags=_DRIVER_MODE,
            )
            try:
                return cls(bpf(Cmd.LINK_CREATE, attr, "create", label), label)
            except BpfError as error:
                if error.errno in _NO_XDP:
                    return None
                raise

    @classmethod
    def open(cls, path: Path | str) -> XdpLink:
        """The link pinned at `path`."""
        return cls(open_pin(path, "link"), f"link {Path(path).name}")

    @property
    def ifindex(self) -> int:
        """The device's index; 0 once it is gone."""
        return int(get_info(self.fd, TcxLinkInfoStruct(), self.label).ifindex)

    def update(self, program: BpfProgram) -> None:
        """Replace the program; each frame meets exactly one. ENOLINK if the device is gone."""
        attr = LinkUpdate(link_fd=self.fd, new_prog_fd=program.fd)
        bpf(Cmd.LINK_UPDATE, attr, f"put {program.label} into", self.label)
