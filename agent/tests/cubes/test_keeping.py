"""What runs keeps running: a cube that breaks or vanishes is loaded as it was in force last."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubelet.bpf.folders import UnsafeFolderError
from cubelet.cubes import keeping
from cubelet.cubes.copies import CopyError
from cubelet.cubes.discovery import Discovery
from cubelet.cubes.keeping import Found, Keeper

from ..helpers.site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = Site(tmp_path)
    monkeypatch.syspath_prepend(str(made.folder))
    yield made
    made.forget()


def number(found: Discovery) -> int:
    return int(found.cubes["gate"].release)  # type: ignore[attr-defined]


def row(found: Discovery) -> dict[str, object]:
    (only,) = found.rows(active=["gate"])
    return only


def test_what_is_installed_runs_from_a_copy_and_is_not_touched_by_changes_on_disk(
    site: Site,
) -> None:
    site.install(1)
    found = site.run()
    assert (row(found)["state"], row(found)["version"]) == ("active", "0.1")
    gate = found.cubes["gate"]
    assert gate.source().is_relative_to(site.state)
    site.install(2)
    assert gate.source().read_text() == "// 1\n"
    assert gate.late(None) == 1  # type: ignore[attr-defined]
    site.uninstall()
    assert gate.source().read_text() == "// 1\n"
    assert site.state.stat().st_mode & 0o777 == 0o700


BROKEN = [
    ("\nimport nothing_like_it", "ModuleNotFoundError"),
    ("\nraise SystemExit(3)", "SystemExit: 3"),
    ("\nGate.abi = 9", "built for ABI 9"),
    ("\nGate.kind = 'tcp'", "the kind 'tcp' is not usable"),
    ("\n@hookimpl\ndef cubelet_cubes(): return []", "it offers no gate any more"),
    ("\ndef cubelet_cubes(): return (", "SyntaxError"),
]


@pytest.mark.parametrize(("broken", "reason"), BROKEN)
def test_a_new_version_that_cannot_be_used_leaves_the_last_one_in_force(
    site: Site, broken: str, reason: str
) -> None:
    site.install(1)
    site.run()
    site.install(2, broken=broken)
    for _ in range(2):  # and after another start
        found = site.run()
        assert number(found) == 1
        told = row(found)
        assert (told["state"], told["version"]) == ("kept", "0.1")
        assert "cubelet-gate 0.2 cannot be used: " in str(told["reason"])
        assert reason in str(told["reason"])
        assert "`cubelet cubes forget gate`" in str(told["reason"])
        assert "cubelet-gate 0.1 runs on" in found.kept(["gate"])["gate"]
        assert (found.lost, found.quarantined(), found.kept(["nat"])) == ({}, {}, {})
    site.install(3)
    found = site.run()
    assert (number(found), row(found)["state"], found.kept(["gate"])) == (3, "active", {})


def test_files_that_vanish_from_under_an_installed_package_leave_it_in_force(site: Site) -> None:
    site.install(1)
    site.run()
    shutil.rmtree(site.package)
    found = site.run()
    assert (number(found), row(found)["state"]) == (1, "kept")
    assert "cubelet_gate" in str(row(found)["reason"])
    assert found.uncopied == {}


@pytest.mark.parametrize("essential", [True, False])
def test_an_essential_cube_that_is_uninstalled_stays_and_any_other_goes(
    site: Site, essential: bool
) -> None:
    site.install(1, essential)
    site.run()
    site.uninstall()
    found = site.run()
    assert set(found.cubes) == ({"gate"} if essential else set())
    if essential:
        assert "cubelet-gate is not installed any more" in str(row(found)["reason"])
    assert found.lost == {}


def test_what_is_not_essential_and_breaks_stays_as_well(site: Site) -> None:
    site.install(1, essential=False)
    site.run()
    site.install(2, essential=False, broken="\nraise ValueError")
    assert number(site.run()) == 1


def test_what_was_never_in_force_is_quarantined(site: Site) -> None:
    site.install(1)
    site.start()  # it was found, but no composition has taken over
    site.install(2, broken="\nraise ValueError")
    found = site.run()
    assert row(found)["state"] == "quarantined"
    assert found.lost == {}


@pytest.mark.parametrize("gone", [True, False])
def test_what_was_in_force_and_cannot_be_loaded_at_all_is_lost(site: Site, gone: bool) -> None:
    site.install(1)
    site.run()
    (copy,) = [each for each in site.state.iterdir() if each.is_dir()]
    shutil.rmtree(copy / "cubelet_gate")
    if gone:
        site.uninstall()
    else:
        site.install(2, broken="\nraise ValueError('no')")
    for _ in range(2):
        keeper, found = site.start()
        assert set(found.lost) == {"gate"}
        assert f"its copy {copy} has been changed" in found.lost["gate"]
        assert gone or "ValueError: no" in found.lost["gate"]
    keeper.forget(found, "gate")()
    _, found = site.start()
    assert set(found.lost) == {"gate"}, "it was undone"
    keeper.forget(found, "gate")
    _, found = site.start()
    assert found.lost == {}
    assert not gone or found.plugins == ()


def test_a_torn_copy_of_what_is_installed_is_made_anew(site: Site) -> None:
    site.install(1)
    site.run()
    (copy,) = [each for each in site.state.iterdir() if each.is_dir()]
    (copy / "cubelet_gate/number.py").write_text("")
    found = site.run()
    assert (number(found), row(found)["state"]) == (1, "active")


def test_a_note_that_cannot_be_read_stands_in_nobodys_way(site: Site) -> None:
    site.install(1)
    site.run()
    (note,) = site.state.glob("*.json")
    note.write_bytes(b"")
    found = site.run()
    assert (number(found), row(found)["state"]) == (1, "active")


def test_only_what_is_in_force_is_kept_on_disk(site: Site) -> None:
    for each in (1, 2, 3):
        site.install(each)
        site.run()
    assert len(list(site.state.iterdir())) == 2, "one copy, and the note of it"
    keeper, found = site.start()
    keeper.took_over(found, ())
    assert list(site.state.glob("*.json")) == []


def test_without_room_for_a_copy_it_runs_as_installed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install(1)
    monkeypatch.setattr("cubelet.cubes.copies.MOST", 10)
    found = site.run()
    assert (number(found), row(found)["state"]) == (1, "active")
    assert found.uncopied == {"gate": "cubelet-gate has over 0 MB"}


def test_a_copy_that_somebody_else_could_change_is_not_loaded(site: Site) -> None:
    site.install(1)
    site.run()
    site.uninstall()
    (copy,) = [each for each in site.state.iterdir() if each.is_dir()]
    os.chown(copy, 65534, 65534)
    _, found = site.start()
    assert "belongs to nobody (uid 65534)" in found.lost["gate"]
    os.chown(site.state, 65534, 65534)
    with pytest.raises(UnsafeFolderError):
        Keeper(site.state)


def test_what_a_trial_found_is_loaded_and_the_rest_stays_as_it_is(site: Site) -> None:
    site.install(1)
    site.run()
    site.install(2)
    keeper, running = site.start()
    old, module = running.cubes["gate"], sys.modules["cubelet_gate"]
    same = keeper.adopt(map(Found.of, running.plugins))
    assert same.cubes["gate"] is old
    site.install(3)
    site.forget()
    tried = Keeper(site.state).discover(site.points)  # in another process
    site.forget()
    sys.modules["cubelet_gate"] = module
    before = keeper.imported()
    fresh = keeper.adopt(map(Found.of, tried.plugins))
    assert (number(fresh), number(running)) == (3, 2)
    assert fresh.cubes["gate"].late(None) == 3  # type: ignore[attr-defined]
    keeper.put_back(before)
    assert sys.modules["cubelet_gate"] is module
    assert old.late(None) == 2  # type: ignore[attr-defined]
    gone = [Found("gate", "cubelet-gate", "0.9", digest="none")]
    with pytest.raises(CopyError, match="is missing"):
        keeper.adopt(gone)
    assert sys.modules["cubelet_gate"] is module
    (broken,) = keeper.adopt([Found("gate", "cubelet-gate", "0.9", reason="no")]).plugins
    assert broken.reason == "no"


def test_an_import_without_end_leaves_what_was_in_force(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "IMPORTING", 0.2)
    site.install(1)
    site.run()
    site.install(2, broken="\nwhile True: pass")
    found = site.run()
    assert number(found) == 1
    assert "its import did not end within 0.2 s" in str(row(found)["reason"])


def test_what_fails_in_use_falls_back_to_what_was_in_force(site: Site) -> None:
    site.install(1)
    site.run()
    site.install(2)
    keeper, found = site.start()
    assert number(found) == 2
    assert found.fall_back("gate", "its plan raises")
    assert number(found) == 1
    assert "cubelet-gate 0.2 cannot be used: its plan raises" in str(row(found)["reason"])
    assert not found.fall_back("gate", "and again")
    assert not found.fall_back("nobody", "")
    keeper.took_over(found, {"gate"})
    _, found = site.start()
    assert number(found) == 2, "a start is another chance"
