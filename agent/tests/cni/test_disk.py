"""A disk that is full, or that cannot be written: ADD is refused, DEL passes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubelet.cni import errors, files

from .test_service import Node, name_of, node
from .test_state import record, start_anew

__all__ = ["node"]

PODS = ("c1", "c2", "c3")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; returns the file that takes them."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1024)):
            pass
    assert shutil.disk_usage(folder).free == 0
    return path


def test_a_full_disk_refuses_add_and_lets_del_pass(small_disk: Path) -> None:
    node = Node(small_disk)
    for container in PODS:
        node.do("ADD", container)
    filler = fill(small_disk)
    before = node.left
    error = node.fail(errors.IO_FAILURE, "ADD", "c4")
    assert "No space left" in error.details
    assert node.left == before
    assert not list(small_disk.rglob("*.tmp"))
    for container in PODS[:2]:
        assert node.do("DEL", container) == {}
    assert node.left == (name_of("c3"), "c3", record(node, "c3").name, "shop/pod-c3")
    fill(small_disk)
    start_anew(node)
    assert node.left == (name_of("c3"), "c3", record(node, "c3").name, "shop/pod-c3")
    filler.unlink()
    node.do("ADD", "c5")
    start_anew(node)
    assert {each.container_id for each in node.ipam.leases} == {"c3", "c5"}


def test_a_disk_that_cannot_be_written_lets_del_pass(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.do("ADD")

    def refuse(*_: object, **__: object) -> bool:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", refuse)
        patch.setattr(files, "remove", refuse)
        node.fail(errors.IO_FAILURE, "ADD", "c2")
        assert node.do("DEL") == {}
        assert (node.ports, node.ipam.leases, dict(node.wiring.links)) == ([], (), {})
    start_anew(node)
    assert node.left == ()
