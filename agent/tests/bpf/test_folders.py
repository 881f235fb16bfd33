"""Folders that root reads code from are nobody else's to change, or an error names the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubelet.bpf.folders import UnsafeFolderError, private_folder, trusted_folder
from cubelet.bpf.fs import BPFFS, ensure_bpffs, unlink_tree
from cubelet.composer.compiler import find_compiled
from cubelet.config.node import Settings
from cubelet.daemon.agent import Agent
from cubelet.testkit import datapath

STRANGER = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ours"


def test_what_is_missing_is_made_for_us_alone(folder: Path) -> None:
    assert private_folder(folder) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder


@pytest.mark.parametrize("check", [trusted_folder, private_folder])
@pytest.mark.parametrize("below", ["", "further/down"])
def test_what_somebody_else_made_first_is_refused_with_the_remedy(check, below, folder) -> None:
    (folder / below).mkdir(parents=True, mode=0o700)
    os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError) as caught:
        check(folder / below)
    assert str(folder) in str(caught.value)
    assert "belongs to nobody (uid 65534), who could change" in str(caught.value)
    assert f"remedy: remove it if it is not yours (rm -r {folder})" in str(caught.value)


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o1777, "everybody")])
def test_what_others_may_write_to_is_refused(mode: int, who: str, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UnsafeFolderError, match=f"may be written by {who}; remedy: chmod go-w"):
        trusted_folder(folder)
    if mode == 0o1777:  # as /tmp is
        assert trusted_folder(folder / "below").is_dir()
    else:
        with pytest.raises(UnsafeFolderError, match="may be written"):
            trusted_folder(folder / "below")


def test_a_group_other_than_roots_counts_as_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o775)
    assert trusted_folder(folder).is_dir()
    os.chown(folder, 0, STRANGER)
    with pytest.raises(UnsafeFolderError, match="may be written by the group 65534"):
        trusted_folder(folder)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_no_private_folder(there: bool, folder: Path, tmp_path: Path) -> None:
    if there:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFolderError, match="is a symbolic link of root"):
        private_folder(folder)
    assert (tmp_path / "elsewhere").exists() is there


def test_a_private_folder_is_not_open_to_others(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(UnsafeFolderError, match="is open to others; remedy: chmod 0700"):
        private_folder(folder)


def test_a_cache_of_somebody_elses_is_not_read(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError):
        find_compiled(None, folder, "0")  # type: ignore[arg-type]


def test_the_test_kits_cache_is_private() -> None:
    assert private_folder(datapath.CACHE) == datapath.CACHE


@pytest.fixture
def pins() -> Iterator[Path]:
    folder = BPFFS / f"cubelet-test-{os.getpid()}"
    yield folder
    if folder.exists():
        unlink_tree(folder)


def test_pins_are_not_kept_where_others_may_put_some(pins: Path) -> None:
    below = ensure_bpffs(pins / "maps")
    assert below.stat().st_mode & 0o777 == 0o700
    os.chown(pins, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError, match=f"{pins} belongs to nobody"):
        ensure_bpffs(below)


@pytest.mark.parametrize("which", ["state_dir", "cache_dir", "socket"])
def test_an_agent_does_not_start_on_somebody_elses_folders(which: str, tmp_path: Path) -> None:
    paths = {name: tmp_path / name / "x" for name in ("state_dir", "cache_dir", "socket")}
    (tmp_path / which).mkdir()
    os.chown(tmp_path / which, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError, match=f"{tmp_path / which} belongs to nobody"):
        Agent(Settings(**paths))  # type: ignore[arg-type]
