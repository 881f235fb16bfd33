"""Opens other network namespaces by path, and runs code inside them.

Each run starts a thread, which enters the namespace and ends there. pyroute2 would fork, which is
slow and, in an agent with several threads, unsafe; a shared thread that fails to return would stay
in the wrong namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from cubelet.net import NetError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl of nsfs, see ioctl_ns(2)

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsGone(NetError):
    """There is no network namespace at the path, or none any more."""


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """The descriptor of the network namespace at `path`. Raises NetnsGone, or NetError."""
    try:
        # O_NONBLOCK: a path that is a FIFO must not hang the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NetnsGone(f"network namespace {path} does not exist") from error
    except OSError as error:
        raise NetError(f"cannot open network namespace {path}: {error.strerror}") from error
    try:
        if not _is_netns(descriptor):
            # After a bind-mounted namespace is unmounted, its path is the ordinary file below.
            raise NetnsGone(f"{path} is not a network namespace (any more)")
        yield descriptor
    finally:
        os.close(descriptor)


def exists(path: str) -> bool:
    """Whether `path` is a network namespace now."""
    try:
        with opened(path):
            return True
    except NetError:
        return False


def is_current(descriptor: int) -> bool:
    """Whether the namespace is the calling thread's own."""
    own = os.stat("/proc/thread-self/ns/net")
    other = os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def enter(descriptor: int) -> None:
    """Move the calling thread into the namespace. Raises OSError."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def run_in(descriptor: int, work: Callable[[], T]) -> T:
    """Run `work()` inside the namespace; returns its result or raises its exception.

    Sockets that `work` opens belong to that namespace, and `/proc/sys/net` is that namespace's.
    """
    result: Future[T] = Future()

    def enter_and_work() -> None:
        try:
            enter(descriptor)
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=enter_and_work, name="cubelet-netns")
    thread.start()
    thread.join()
    return result.result()


def _is_netns(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return False
        raise
