"""What the raw calls do about errors that can be helped."""

from __future__ import annotations

import ctypes
import errno
import os
import resource

import pytest

from cubelet.bpf import syscalls
from cubelet.bpf.constants import Cmd
from cubelet.bpf.kernel import release
from cubelet.bpf.syscalls import BpfError, bpf

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Nothing(ctypes.Structure):
    """No attributes: no call gets to the kernel."""


class OldKernel:
    """Counts maps against the limit of locked memory, as before Linux 5.11."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, may_raise: bool) -> None:
        self.limit = (65536, 65536)
        self.may_raise = may_raise
        self.calls = 0
        monkeypatch.setattr(syscalls, "_call", self.call)
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.limit)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def call(self, *_: object) -> int:
        self.calls += 1
        if self.limit == UNLIMITED:
            return 7
        ctypes.set_errno(errno.EPERM)
        return -1

    def set(self, _: int, limit: tuple[int, int]) -> None:
        if not self.may_raise:
            raise ValueError("not allowed to raise maximum limit")
        self.limit = limit


def create() -> int:
    return bpf(Cmd.MAP_CREATE, Nothing(), "create", "map cubelet_flows")


def test_the_limit_of_locked_memory_is_raised_where_it_counts(monkeypatch):
    kernel = OldKernel(monkeypatch, may_raise=True)
    assert create() == 7
    assert (kernel.limit, kernel.calls) == (UNLIMITED, 2)


def test_who_may_not_raise_it_is_told_what_is_missing(monkeypatch):
    kernel = OldKernel(monkeypatch, may_raise=False)
    with pytest.raises(BpfError, match="CAP_SYS_RESOURCE"):
        create()
    assert kernel.calls == 1


def test_other_calls_leave_the_limit_alone(monkeypatch):
    kernel = OldKernel(monkeypatch, may_raise=True)
    with pytest.raises(BpfError):
        bpf(Cmd.OBJ_GET, Nothing(), "open", "/pin")
    assert kernel.limit != UNLIMITED


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("6.18.5", (6, 18)),
        ("5.10.0-32-amd64", (5, 10)),
        ("5.14.0-427.el9.x86_64", (5, 14)),
        ("7.0-rc1", (7, 0)),
        ("unknown", (0, 0)),
    ],
)
def test_the_release_of_a_kernel(text, found):
    assert release(text) == found


def test_the_running_kernels_release():
    assert os.uname().release.startswith(".".join(str(each) for each in release()))
