"""The kernel source tree for BCC: what is in it, when it is made again, and that BCC takes it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cubelet.composer import headers
from cubelet.composer.headers import HeadersMissing, UapiHeaders, ensure_tree

PROGRAM = Path(__file__).parent / "bpf/uapi.bpf.c"

COMPILE = """
import sys
from bcc import BPF
program = BPF(text=sys.stdin.read()).load_func("entry", BPF.SCHED_CLS)
print("loaded" if program.fd > 0 else "refused")
"""


def fake_headers(root: Path) -> Path:
    """A small include folder in the layout of distributions without multi-arch."""
    for name in ("linux/version.h", "linux/bpf.h", "asm/types.h", "asm-generic/types.h"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"/* {name} of the distribution */\n")
    return root


def test_bcc_compiles_network_headers_from_the_tree(tmp_path: Path) -> None:
    tree = ensure_tree(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input=PROGRAM.read_text(),
        env={**os.environ, "BCC_KERNEL_SOURCE": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("loaded\n", "")


def test_a_tree_is_made_quickly_and_then_reused(tmp_path: Path) -> None:
    start = time.monotonic()
    tree = ensure_tree(tmp_path)
    assert time.monotonic() - start < 1.0  # 0.05 s alone; the machine may be busy
    marker = tree / "marker"
    marker.touch()
    assert ensure_tree(tmp_path) == tree
    assert marker.exists()


def test_own_files_take_the_place_of_the_distributions(tmp_path: Path) -> None:
    source = fake_headers(tmp_path / "usr")
    tree = ensure_tree(tmp_path / "cache", UapiHeaders.find(source))
    assert "/virtual/include/bcc/bpf.h" in (tree / "include/linux/bpf.h").read_text()
    assert "CONFIG_BPF_SYSCALL" in (tree / "include/uapi/linux/kconfig.h").read_text()
    assert (source / "linux/bpf.h").read_text() == "/* linux/bpf.h of the distribution */\n"


def test_an_update_of_the_headers_makes_another_tree(tmp_path: Path) -> None:
    source = fake_headers(tmp_path / "usr")
    before = ensure_tree(tmp_path / "cache", UapiHeaders.find(source))
    (source / "linux/added.h").touch()
    os.utime(source / "linux", ns=(1, 1))
    after = ensure_tree(tmp_path / "cache", UapiHeaders.find(source))
    assert before != after
    assert (after / "include/linux/added.h").exists()


@pytest.mark.parametrize("missing", ["linux/version.h", "asm/types.h", "asm-generic/types.h"])
def test_missing_headers_name_the_folder_and_the_package(tmp_path: Path, missing: str) -> None:
    source = fake_headers(tmp_path / "usr")
    (source / missing).unlink()
    with pytest.raises(HeadersMissing, match=rf"{missing}.*linux-libc-dev.*kernel-headers"):
        UapiHeaders.find(source)


def test_a_tree_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_source: Path, _target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(headers, "_link_entries", fail)
    with pytest.raises(OSError, match="disk full"):
        ensure_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_losing_a_race_uses_the_winners_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = headers._fill

    def overtaken(include: Path, found: UapiHeaders) -> None:
        monkeypatch.setattr(headers, "_fill", fill)
        (ensure_tree(tmp_path) / "winner").touch()
        fill(include, found)

    monkeypatch.setattr(headers, "_fill", overtaken)
    tree = ensure_tree(tmp_path)
    assert (tree / "winner").exists()
    assert list(tmp_path.iterdir()) == [tree]
