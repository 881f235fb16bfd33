"""Attaches a program to a device: by tcx where the kernel has it, else by clsact, never by both."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cubelet.bpf import clsact
from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import Direction, TcxLink, tcx_supported


class Mode(StrEnum):
    """How a program is attached to its device."""

    TCX = "tcx"
    CLSACT = "clsact"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on one device, held by the kernel alone: by a link's pin or by the filter.

    It owns no descriptor, so an agent that restarts gets the same value from `attach` again.
    `ifindex` is one of the current network namespace.
    """

    ifindex: int
    pin_path: Path
    direction: Direction
    mode: Mode

    @classmethod
    def attach(
        cls,
        ifindex: int,
        program: BpfProgram,
        pin_path: Path | str,
        direction: Direction = Direction.INGRESS,
        mode: Mode | None = None,
    ) -> Attachment:
        """Run `program` on the device; it replaces the program of an earlier call.

        `mode` None takes tcx if the kernel has it. The pin's folder must exist; a pin of a device
        that is gone is replaced.
        """
        chosen = mode or (Mode.TCX if tcx_supported() else Mode.CLSACT)
        attachment = cls(ifindex, Path(pin_path), direction, chosen)
        # Attach the new one before the old one goes: tcx runs before clsact and decides all but
        # what it passes on, so no packet goes without a program and hardly any meets two.
        if chosen is Mode.TCX:
            attachment._attach_tcx(program)
            clsact.remove(ifindex, direction)
        else:
            clsact.replace(ifindex, program, direction)
            attachment._detach_tcx()
        return attachment

    def replace(self, program: BpfProgram) -> None:
        """Switch to `program` in one step; a failure leaves the one that runs."""
        if self.mode is Mode.CLSACT:
            clsact.replace(self.ifindex, program, self.direction)
            return
        with TcxLink.open(self.pin_path) as link:
            link.update(program)

    def leave(self) -> None:
        """Remove the filter from a device whose pin another device's link has taken over."""
        if self.mode is Mode.CLSACT:
            clsact.remove(self.ifindex, self.direction)

    def detach(self) -> None:
        """Detach the program and remove the pin; no error if either or the device is gone."""
        if self.mode is Mode.CLSACT:
            clsact.remove(self.ifindex, self.direction)
        else:
            self._detach_tcx()

    def _attach_tcx(self, program: BpfProgram) -> None:
        if self._update_pinned(program):
            return
        with TcxLink.create(self.ifindex, program, self.direction) as link:
            link.pin(self.pin_path, replace=True)

    def _update_pinned(self, program: BpfProgram) -> bool:
        """Put `program` into the link pinned here; False if there is none of this device."""
        if not self.pin_path.exists():
            return False
        with TcxLink.open(self.pin_path) as link:
            info = link.info()
            if (info.ifindex, info.direction) != (self.ifindex, self.direction):
                return False
            try:
                link.update(program)
            except BpfError as error:
                if error.errno == errno.ENOLINK:  # the device went away since
                    return False
                raise
        return True

    def _detach_tcx(self) -> None:
        if self.pin_path.exists():
            with TcxLink.open(self.pin_path) as link:
                link.detach()
            self.pin_path.unlink()
