"""Lines in files that are put aside, and what becomes of those that there is no room for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cubelet_flowlog import writer
from cubelet_flowlog.writer import Writer

from .waiting import eventually

SHORT = 0.05
"""Seconds for which the thread lingers in these tests."""


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "flowlog"]


def ended() -> None:
    eventually(lambda: not threads())


@pytest.fixture(autouse=True)
def alone() -> None:
    """No thread of another test is about to end."""
    ended()


def open_files(path: Path) -> list[str]:
    links = (Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    return [str(link.readlink()) for link in links if link.is_symlink() and link.readlink() == path]


def test_lines_are_written_in_order_and_nothing_stays_behind(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    made = Writer(str(path), 1_000_000, 2, linger=SHORT)
    for number in range(100):
        made.write(str(number))
    eventually(lambda: made.written == 100)
    assert len(threads()) <= 1
    ended()
    assert open_files(path) == []
    made.write("another")
    ended()
    assert path.read_text().splitlines() == [*map(str, range(100)), "another"]
    assert (made.lost, made.error) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o640


def test_files_are_put_aside_by_size_and_only_so_many_kept(tmp_path: Path) -> None:
    made = Writer(str(tmp_path / "flows"), 1_000, 3, linger=SHORT)
    for number in range(100):
        made.write(f"{number:099}")
    ended()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["flows", "flows.1", "flows.2"]
    assert all(each.stat().st_size <= 1_000 for each in tmp_path.iterdir())
    kept = "".join((tmp_path / name).read_text() for name in ("flows.2", "flows.1", "flows"))
    numbers = [int(line) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 100))


def test_a_file_that_others_moved_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    made = Writer(str(path), 1_000_000, 2, linger=SHORT)
    made.write("1")
    ended()
    path.rename(tmp_path / "moved")
    made.write("2")
    ended()
    assert path.read_text() == "2\n"


def test_lines_without_a_folder_are_lost_until_there_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    made = Writer(str(folder / "flows"), 1_000_000, 2, linger=SHORT)
    made.write("1")
    eventually(lambda: made.lost == 1)
    assert str(folder) in made.error
    folder.mkdir()
    made.write("2")
    ended()
    assert (made.written, made.lost, made.error) == (1, 1, "")


def test_a_disk_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAITING", 10)
    path = tmp_path / "flows"
    os.mkfifo(path)  # opening it waits for a reader
    made = Writer(str(path), 1_000_000, 2, linger=SHORT)
    for number in range(20):
        made.write(str(number))
    assert 8 <= made.lost <= 10
    with path.open() as reader:
        ended()
        read = reader.read().splitlines()
    assert len(read) + made.lost == 20
