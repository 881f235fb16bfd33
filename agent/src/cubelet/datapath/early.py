"""The program that an uplink's driver runs on every frame, before the kernel sees it."""

from __future__ import annotations

import errno
from pathlib import Path

import structlog

from cubelet.bpf.fs import ensure_bpffs, unlink
from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.xdp import XdpLink

log = structlog.get_logger()


class EarlyAttachment:
    """The XDP link of the uplink, by which its driver runs early cubes on every frame.

    The link stays when programs are replaced, and goes when there is none any more.
    """

    def __init__(self, pin: Path) -> None:
        self._pin = pin
        self._supported: dict[int, bool] = {}

    @property
    def there(self) -> bool:
        """Whether a link is on some device."""
        return self._pin.exists()

    def ready(self, ifindex: int) -> bool:
        """Make sure that the uplink has a link, which passes all frames until a program is put in.

        False if the driver has no XDP, or if other software's program is attached.
        """
        if ifindex not in self._supported:
            self._supported = {ifindex: self._is_there(ifindex) or self._attach(ifindex)}
        return self._supported[ifindex]

    def _is_there(self, ifindex: int) -> bool:
        """Whether an earlier run's link is on the device."""
        if not self._pin.exists():
            return False
        with XdpLink.open(self._pin) as link:
            return link.ifindex == ifindex

    def _attach(self, ifindex: int) -> bool:
        ensure_bpffs(self._pin.parent)
        unlink(self._pin)
        try:
            link = XdpLink.create(ifindex)
        except BpfError as error:
            if error.errno != errno.EBUSY:
                raise
            log.warning("the uplink's driver runs somebody else's program", device=ifindex)
            return False
        if link is None:
            return False
        with link:
            link.pin(self._pin)
        return True

    def run(self, program: BpfProgram | None) -> None:
        """Put a program into the link; None removes the link."""
        if program is None:
            self._supported = {}
            unlink(self._pin)
            return
        with XdpLink.open(self._pin) as link:
            link.update(program)
