"""What the last run remembered, if its file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubelet.cni import files
from cubelet.state.last_known import Memory, Remembered


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": "mynet"}',
        b'{"slots": {}, "addresses": ["node1"], "pod_cidrs": ["10.244.1.0/24"]}',
        b"[" * 100_000,
    ],
)
def test_a_broken_memory_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(content)
    memory = Memory(path)
    assert memory.known == Remembered(slots=memory.known.slots)
    assert (tmp_path / "memory.json.unreadable").read_bytes() == content
    (told,) = files.broken(tmp_path)
    assert told.startswith(f"memory.json in {tmp_path} was broken")
    memory.remember(policed=("shop",))
    assert Memory(path).known.policed == ("shop",)
