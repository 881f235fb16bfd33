"""The lab's processes: recorded, served, ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cubelet.lab import netns, processes
from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout
from cubelet.lab.processes import Record

STUBBORN = (
    "import time, signal as s; s.signal(15, s.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def place(layout: Layout) -> str:
    """A namespace, removed with the lab that it is named after."""
    name = f"{layout.netns_prefix}a"
    netns.create(name)
    return name


def test_a_process_runs_in_its_namespace_until_it_is_ended(layout: Layout, place: str) -> None:
    pid = processes.spawn(layout, "p", place, ["sleep", "60"])
    while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
        time.sleep(0.001)  # still on its way into the namespace
    assert netns.path(place).stat().st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
    assert processes.alive(layout, "p")
    processes.end(layout, ["p", "never"])
    assert not Path(f"/proc/{pid}").exists()
    assert list(layout.processes.iterdir()) == []


def test_a_process_that_ignores_sigterm_is_killed(
    layout: Layout, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.2)
    reader, writer = os.pipe()
    argv = [sys.executable, "-c", STUBBORN]
    pid = processes.spawn(layout, "p", place, argv, stdout=writer)
    os.close(writer)
    with open(reader, "rb") as stdout:
        assert stdout.readline() == b"ready\n"  # it ignores SIGTERM from here on
        processes.end_all(layout)
    assert not Path(f"/proc/{pid}").exists()


def test_a_pid_that_is_another_process_by_now_is_left_alone(layout: Layout) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        start = processes.start_time(other.pid)
        assert start is not None
        layout.processes.mkdir(parents=True)
        record = layout.processes / "p.json"
        record.write_bytes(msgspec.json.encode(Record(other.pid, start - 1)))
        assert not processes.alive(layout, "p")
        processes.end(layout, ["p"])
        assert other.poll() is None
        other.kill()


def test_a_record_cut_short_is_no_obstacle(layout: Layout) -> None:
    layout.processes.mkdir(parents=True)
    (layout.processes / "p.json").write_text('{"pid": 1')
    processes.end_all(layout)
    assert list(layout.processes.iterdir()) == []


def test_a_server_is_ready_when_it_is_started(layout: Layout, place: str) -> None:
    began = time.monotonic()
    processes.spawn_server(layout, "p", place, "a/b", [("TCP", 80), ("UDP", 80), ("SCTP", 80)])
    assert processes.alive(layout, "p")
    assert time.monotonic() - began < 5


def test_a_port_that_is_taken_is_told_and_nothing_stays(layout: Layout, place: str) -> None:
    processes.spawn_server(layout, "p", place, "a/b", [("TCP", 80)])
    with pytest.raises(LabError, match=r"a/c: .*TCP.*80.*Address already in use"):
        processes.spawn_server(layout, "q", place, "a/c", [("TCP", 80)])
    assert [path.stem for path in layout.processes.iterdir()] == ["p"]
