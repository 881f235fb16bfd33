"""Packages that come, change and go are noticed once they are at rest, and nothing else is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cubelet.cubes.changes import Installed

from ..helpers.site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = Site(tmp_path)
    monkeypatch.syspath_prepend(str(made.folder))
    return made


def test_each_change_is_told_once_when_it_is_at_rest(site: Site) -> None:
    installed = Installed(site.state)
    assert not installed.changed()
    for change in (
        lambda: site.install(1),
        lambda: site.install(2),
        site.uninstall,
    ):
        change()
        assert not installed.changed(), "it may still be under way"
        assert installed.changed()
        assert not installed.changed()


def test_another_build_of_the_same_version_is_noticed(site: Site) -> None:
    site.install(1)
    installed = Installed(site.state)
    site.install(1)
    (info,) = site.folder.glob("*.dist-info")
    (info / "RECORD").write_text("cubelet_gate/__init__.py,sha256=other,1\n")
    assert [installed.changed() for _ in range(3)] == [False, True, False]


def test_what_is_under_way_is_waited_for(site: Site) -> None:
    installed = Installed(site.state)
    for number in (1, 2, 3):
        site.install(number)
        assert not installed.changed()
    site.uninstall()
    assert [installed.changed() for _ in range(3)] == [False, False, False], "it is as it was"


def test_other_packages_and_copies_are_nothing_new(site: Site) -> None:
    site.install(1)
    site.run()  # leads the import path to a copy, too
    installed = Installed(site.state)
    (site.folder / "other-1.dist-info").mkdir()
    (site.folder / "other-1.dist-info/METADATA").write_text("Name: other\nVersion: 1\n")
    assert [installed.changed() for _ in range(3)] == [False, False, False]
    site.uninstall()
    assert [installed.changed() for _ in range(3)] == [False, True, False]
    site.forget()


def test_an_agent_that_is_another_on_disk_is_noticed(site: Site) -> None:
    installed = Installed(site.state)
    site.install(1)
    assert not installed.outdated
    info = site.folder / "cubelet-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cubelet\nVersion: 9\n")
    assert installed.outdated
