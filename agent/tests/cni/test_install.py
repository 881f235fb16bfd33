"""Putting the plugin in place: which one, when, and how."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cubelet.cni import install
from cubelet.cni.install import install_plugin, remove_plugin


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "cni" / "bin"


def versions(path: Path) -> str:
    """What the plugin says for itself."""
    done = subprocess.run(
        [path], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True
    )
    return done.stdout.decode()


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_COMPILERS", ("no-such-compiler",))


def test_the_program_is_compiled_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_plugin(folder, cache)
    assert path == folder / "cubelet-cni"
    assert path.read_bytes().startswith(b"\x7fELF")
    assert path.stat().st_mode & 0o777 == 0o755
    assert "supportedVersions" in versions(path)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("cubelet-cni-")
    remove_plugin(folder)
    without_compiler(monkeypatch)
    assert install_plugin(folder, cache).read_bytes() == kept.read_bytes()


def test_what_is_in_place_is_left_alone(folder: Path, cache: Path) -> None:
    before = install_plugin(folder, cache).stat()
    after = install_plugin(folder, cache).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", ["other content", "not executable"])
def test_what_differs_is_replaced_while_it_runs(folder: Path, cache: Path, damage: str) -> None:
    path = install_plugin(folder, cache)
    # It waits for its standard input: a file that is executed cannot be written.
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        if damage == "other content":
            path.unlink()
            path.write_bytes(b"#!/bin/false\n")
        else:
            path.chmod(0o644)
        assert "supportedVersions" in versions(install_plugin(folder, cache))
        assert os.listdir(folder) == ["cubelet-cni"]
        running.communicate(timeout=10)


def test_without_a_compiler_it_is_a_script(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch)
    path = install_plugin(folder, cache)
    first, _, rest = path.read_bytes().partition(b"\n")
    assert first.startswith(b"#!/")
    assert first.endswith(b" -IS")
    assert rest == Path(install.__file__).with_name("plugin.py").read_bytes()
    assert "supportedVersions" in versions(path)


def test_a_compiler_that_cannot_link_statically_is_passed_over(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_FLAGS", (*install._FLAGS, "-lno-such-library"))
    assert install_plugin(folder, cache).read_bytes().startswith(b"#!")
    assert list(cache.iterdir()) == []


def test_an_images_own_program_comes_first(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuilt = tmp_path / "cubelet-cni"
    prebuilt.write_bytes(b"#!/bin/true\n")
    monkeypatch.setattr(install, "_PREBUILT", prebuilt)
    assert install_plugin(folder, cache).read_bytes() == b"#!/bin/true\n"
    assert not cache.exists()


def test_removing_it_leaves_what_is_not_ours(folder: Path, cache: Path) -> None:
    install_plugin(folder, cache)
    (folder / "bridge").touch()
    assert remove_plugin(folder)
    assert not remove_plugin(folder)
    assert os.listdir(folder) == ["bridge"]
