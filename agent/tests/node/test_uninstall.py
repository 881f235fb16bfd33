"""Taking cubelet off a node: what is asked first, what goes, what stays, and what is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cubelet.bpf import links
from cubelet.bpf.programs import load
from cubelet.bpf.tcx import RETURN_ZERO
from cubelet.cli.commands import app
from cubelet.cni.attachments import Attachment
from cubelet.cni.conf import write_conflist
from cubelet.config.node import Settings
from cubelet.lab import netns
from cubelet.net import NetError, node, pods
from cubelet.net.node import NodeSettings, ensure
from cubelet.net.pods import PodLink
from cubelet.node import uninstall as module
from cubelet.node.uninstall import StillInUse, uninstall

DEVICE = pods.host_ifname("c1", "eth0")


STATE = ("ipam.json", "memory.json", "ipam.json.unreadable")


class Kernel:
    """Stands in for the kernel where a test is about files: it has these pods' devices."""

    def __init__(self) -> None:
        self.wired: list[str] = []
        self.torn_down = 0
        self.failure = ""

    def list_wired(self) -> dict[str, None]:
        return dict.fromkeys(self.wired)

    def unwire(self, device: str) -> bool:
        self.wired.remove(device)
        return True

    def teardown(self) -> tuple[str, ...]:
        if self.failure:
            raise NetError(self.failure)
        self.torn_down += 1
        return ()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(pods, "list_wired", kernel.list_wired)
    monkeypatch.setattr(pods, "unwire", kernel.unwire)
    monkeypatch.setattr(node, "teardown", kernel.teardown)
    monkeypatch.setattr(module, "tcx_supported", lambda: True)
    return kernel


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node's paths, filled as an agent fills them."""
    found = Settings(
        socket=tmp_path / "agent.sock",
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        bpffs=tmp_path / "bpf",
        cni_bin=tmp_path / "bin",
        cni_conf=tmp_path / "net.d/10-cubelet.conflist",
    )
    assert found.cni_conf is not None
    assert found.cni_bin is not None
    write_conflist(found.cni_conf, found.socket)
    found.cni_bin.mkdir()
    (found.cni_bin / "cubelet-cni").write_text("")
    (found.cni_bin / "bridge").write_text("somebody else's")
    (found.state_dir / "attachments").mkdir(parents=True)
    (found.state_dir / "attachments/cblx.json.unreadable").write_text("")
    for name in (*STATE, ".ipam.json.tmp"):
        (found.state_dir / name).write_text("")
    (found.cache_dir / "kernel-0123/include").mkdir(parents=True)
    (found.cache_dir / "0123456789abcdef.json").write_text("")
    return found


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def remember(settings: Settings, device: str) -> None:
    link = PodLink("/run/netns/x", "eth0", "", device, "", "10.1.0.2", 24, "10.1.0.1", 1500, 1450)
    attachment = Attachment(
        network="cubelet",
        container_id="c1",
        namespace="shop",
        name="web",
        uid="",
        ifindex=7,
        link=link,
    )
    path = settings.state_dir / "attachments" / f"{device}.json"
    path.write_bytes(msgspec.json.encode(attachment))


def test_all_that_is_ours_goes_and_nothing_else(
    kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    report = uninstall(settings)
    assert report.failed == []
    assert report.removed == [
        str(tmp_path / name)
        for name in ("net.d/10-cubelet.conflist", "bin/cubelet-cni", "state", "cache")
    ]
    assert left(tmp_path) == {"bin/bridge"}
    assert kernel.torn_down == 1


def test_a_second_run_finds_nothing(kernel: Kernel, settings: Settings) -> None:
    uninstall(settings)
    report = uninstall(settings)
    assert (report.removed, report.failed) == ([], [])


def test_state_can_stay(kernel: Kernel, settings: Settings, tmp_path: Path) -> None:
    uninstall(settings, keep_state=True)
    kept = {f"state/{name}" for name in (*STATE, ".ipam.json.tmp")}
    kept.add("state/attachments/cblx.json.unreadable")
    assert left(tmp_path) == {"bin/bridge", *kept}


def test_an_agent_that_answers_is_not_pulled_away(
    kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    before = left(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(settings.socket))
        listener.listen()
        with pytest.raises(StillInUse, match=r"end it first .*delete daemonset cubelet"):
            uninstall(settings, force=True)
        assert left(tmp_path) == {*before, "agent.sock"}
    assert uninstall(settings).removed[-3:] == [
        str(settings.socket),  # what a killed agent leaves
        str(settings.state_dir),
        str(settings.cache_dir),
    ]


def test_pods_are_named_before_they_are_cut_off(
    kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    kernel.wired = [DEVICE, "cblbbbbbbbbbbbb"]
    remember(settings, DEVICE)
    before = left(tmp_path)
    with pytest.raises(StillInUse, match=r"attached: cblbbbbbbbbbbbb, shop/web; drain .* --force"):
        uninstall(settings)
    assert left(tmp_path) == before
    assert f"device {DEVICE}" in uninstall(settings, force=True).removed
    assert kernel.wired == []


def test_pods_that_were_deleted_without_an_agent_are_not_attached(
    kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    kernel.wired = [DEVICE]
    remember(settings, DEVICE)
    deletions = settings.socket.with_name("agent.sock.deleted")
    deletions.mkdir()
    (deletions / "c1:eth0").touch()
    assert f"device {DEVICE}" in uninstall(settings).removed
    assert left(tmp_path) == {"bin/bridge"}
    assert not deletions.exists()


# As in the container of `deploy/uninstall.yaml`: the root is read-only, the folder is mounted.
MOUNTED = """
mount --bind "$1" "$1"
mount --bind "$1/run" "$1/run"
if [ "$2" = read-only ]; then mount -o remount,bind,ro "$1"; fi
exec "${@:3}"
"""
REMOVING = """
import sys
from pathlib import Path
from cubelet.node import uninstall
uninstall.DEFAULT_SOCKET = sys.argv[1]
print(*uninstall._socket(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("root", ["read-only", "writable"])
def test_the_sockets_folder_may_be_mounted(tmp_path: Path, root: str) -> None:
    """It is emptied, and stays."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "agent.sock"
    path.touch()
    (folder / "agent.sock.deleted").mkdir()
    command = ["unshare", "--mount", "bash", "-ec", MOUNTED, "_", str(tmp_path), root]
    command += [sys.executable, "-c", REMOVING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", f"{path}\n")
    assert list(folder.iterdir()) == []


def test_what_fails_stops_nothing_else(kernel: Kernel, settings: Settings, tmp_path: Path) -> None:
    kernel.failure = "cannot remove cubelet0: Operation not permitted"
    report = uninstall(settings)
    assert report.failed == [f"node: {kernel.failure}"]
    assert left(tmp_path) == {"bin/bridge"}


def test_files_of_others_keep_a_folder(kernel: Kernel, settings: Settings) -> None:
    (settings.state_dir / "notes.txt").write_text("")
    (settings.cache_dir / "important.json").write_text("")
    report = uninstall(settings)
    assert [each.partition(":")[0] for each in report.failed] == ["state", "cache"]
    assert "stays: notes.txt" in report.failed[0]
    assert left(settings.state_dir) == {"notes.txt"}
    assert left(settings.cache_dir) == {"important.json"}


def test_pins_are_removed_from_a_bpf_filesystem_only(kernel: Kernel, settings: Settings) -> None:
    settings.bpffs.mkdir()
    (settings.bpffs / "file").write_text("")
    report = uninstall(settings)
    assert report.failed == [f"pins: {settings.bpffs} is not on a bpf filesystem"]
    assert left(settings.bpffs) == {"file"}


class TestCommand:
    @pytest.fixture
    def config(self, settings: Settings, tmp_path: Path) -> str:
        path = tmp_path / "agent.yaml"
        path.write_bytes(msgspec.json.encode(settings, enc_hook=str))
        return str(path)

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["uninstall", *arguments])

    def test_tells_what_it_removed(self, kernel: Kernel, config: str, settings: Settings) -> None:
        result = self.run("--config", config)
        assert result.exit_code == 0
        assert f"removed {settings.cni_conf}\n" in result.stdout
        assert self.run("--config", config).stdout == "nothing of cubelet is here\n"

    def test_exits_with_1_and_what_stayed(
        self, kernel: Kernel, config: str, settings: Settings
    ) -> None:
        kernel.failure = "no"
        result = self.run("--config", config, "-o", "json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["failed"] == ["node: no"]
        assert self.run("--config", config).stderr == "error: node: no\n"

    def test_a_refusal_is_an_error(self, kernel: Kernel, config: str) -> None:
        kernel.wired = [DEVICE]
        result = self.run("--config", config)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: pods are still attached: {DEVICE}")
        assert self.run("--config", config, "--force").exit_code == 0


@pytest.fixture
def place() -> Iterator[str]:
    """A network namespace with an uplink."""
    name = f"cubelet-uninstall-{os.getpid()}"
    netns.create(name)
    try:
        netns.ip_batch(
            [
                "link add eth0 type veth peer far0",
                "address add 192.168.7.2/24 dev eth0",
                "link set eth0 up",
                "link set far0 up",
            ],
            name,
        )
        yield name
    finally:
        netns.delete(name)


def filters(device: str) -> str:
    command = ["tc", "filter", "show", "dev", device, "ingress"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("mode", list(links.Mode))
def test_programs_come_off_the_uplink(
    place: str, settings: Settings, mode: links.Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "tcx_supported", lambda: mode is links.Mode.TCX)
    bpffs = Path(f"/sys/fs/bpf/cubelet-uninstall-{os.getpid()}")
    own = msgspec.structs.replace(settings, bpffs=bpffs)
    wanted_node = NodeSettings("one", ip_network("10.244.1.0/24"), (20000, 20999), uplink="eth0")

    def work() -> tuple[list[str], list[str], str]:
        local = ensure(wanted_node)
        pin = bpffs / "links/uplink"
        pin.parent.mkdir(parents=True)
        with load(RETURN_ZERO, "test") as program:
            links.Attachment.attach(local.uplink_ifindex, program, pin, mode=mode)
        assert pin.exists() is (mode is links.Mode.TCX)
        assert bool(filters("eth0")) is (mode is links.Mode.CLSACT)
        report = uninstall(own)
        return report.removed, report.failed, filters("eth0")

    removed, failed, remaining = netns.run(place, work)
    assert (failed, remaining) == ([], "")
    wanted = {"program on uplink"} if mode is links.Mode.TCX else {"filters on all devices"}
    assert {*wanted, "device cubelet0", "reserved ports 20000-20999", str(bpffs)} <= set(removed)
    assert not bpffs.exists()
