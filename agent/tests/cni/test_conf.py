"""The file by which container runtimes find the plugin."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from cubelet.cni.conf import remove_conflist, write_conflist
from cubelet.cni.plugin import VERSIONS
from cubelet.cni.request import check_config

SOCKET = Path("/run/cubelet/agent.sock")


def test_the_list_names_the_plugin_and_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-cubelet.conflist"
    write_conflist(path, SOCKET)
    network = json.loads(path.read_text())
    (plugin,) = network["plugins"]
    assert plugin == {
        "type": "cubelet-cni",
        "socket": str(SOCKET),
        "capabilities": {"portMappings": True},
    }
    assert {network["cniVersion"], *network["cniVersions"]} <= set(VERSIONS)
    check_config({**plugin, "name": network["name"], "cniVersion": network["cniVersion"]})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_an_unchanged_list_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "10-cubelet.conflist"
    write_conflist(path, SOCKET)
    before = path.stat().st_ino
    write_conflist(path, SOCKET)
    assert path.stat().st_ino == before
    write_conflist(path, Path("/run/other.sock"))
    assert json.loads(path.read_text())["plugins"][0]["socket"] == "/run/other.sock"


def test_removing_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "10-cubelet.conflist"
    write_conflist(path, SOCKET)
    assert remove_conflist(path)
    assert not remove_conflist(path)
    assert list(tmp_path.iterdir()) == []
