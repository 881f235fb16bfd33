"""The doctor: a healthy machine is found healthy, and each lack comes with its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cubelet.composer.headers import HeadersMissing, UapiHeaders
from cubelet.net import rtnl
from cubelet.node import doctor
from cubelet.node.doctor import BCC, UAPI, Check, Missing, Probe, install_hint, run_checks

ALL = (1 << 41) - 1

UNPRIVILEGED = """
from cubelet.node.doctor import run_checks
for check in run_checks():
    if not check.ok:
        print(check.name, "|", check.remedy)
"""


def probe(name: str) -> Probe:
    return next(probe for probe in doctor.PROBES if probe.name == name)


def devices() -> set[str]:
    with rtnl.session() as ipr:
        return set(rtnl.links(ipr))


def test_a_machine_that_runs_these_tests_is_healthy_and_left_as_it_was() -> None:
    before = (devices(), os.readlink("/proc/self/ns/net"), sorted(os.listdir("/proc/self/fd")))
    sick = [check for check in run_checks() if not check.ok]
    after = (devices(), os.readlink("/proc/self/ns/net"), sorted(os.listdir("/proc/self/fd")))
    assert sick == []
    assert after == before


def test_without_privileges_every_lack_has_a_remedy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    remedies = dict(line.split(" | ") for line in result.stdout.splitlines())
    assert set(remedies) == {
        "privileges",
        "BPF programs",
        "BPF maps",
        "veth",
        "VXLAN",
        "attachment",
    }
    assert all("root" in remedy for remedy in remedies.values())


def test_one_broken_probe_does_not_hide_the_others() -> None:
    def broken() -> str:
        raise KeyError("wrong")

    assert run_checks([Probe("a", broken, "mend a"), Probe("b", lambda: "fine", "mend b")]) == (
        Check("a", False, "KeyError: 'wrong'", "mend a"),
        Check("b", True, "fine", ""),
    )


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (0, "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"),
        (ALL & ~(1 << 12), "CAP_NET_ADMIN"),
        (ALL & ~(1 << 39), "CAP_BPF"),
    ],
)
def test_lacking_capabilities_are_named(held: int, lacking: str) -> None:
    with pytest.raises(Missing, match=f" without {lacking}$"):
        doctor.capabilities(f"CapPrm:\t{ALL:016x}\nCapEff:\t{held:016x}\nCapBnd:\t{ALL:016x}\n")


@pytest.mark.parametrize(
    ("release", "machine"), [("5.9.16", "x86_64"), ("4.19.0-27-amd64", "x86_64"), ("6.1", "i686")]
)
def test_a_kernel_that_is_too_old_or_of_another_machine_is_refused(
    release: str, machine: str
) -> None:
    with pytest.raises(Missing, match=f"{release} on {machine}"):
        doctor.kernel(release, machine)


@pytest.mark.parametrize("release", ["5.10.0", "6.1.0-32-cloud-amd64", "10.0-rc1"])
def test_later_kernels_are_taken(release: str) -> None:
    assert doctor.kernel(release, "aarch64") == f"{release} on aarch64"


def test_the_cgroup_v2_tree_may_be_anywhere() -> None:
    hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert doctor.cgroup2(hybrid) == "mounted on /sys/fs/cgroup/unified"
    with pytest.raises(Missing, match="cgroup v2"):
        doctor.cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ({"ID": "debian"}, "apt-get install python3-bpfcc"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt-get install python3-bpfcc"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install python3-bcc"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "zypper install python3-bcc"),
    ],
)
def test_the_remedy_is_the_distributions_own_command(
    os_release: dict[str, str], command: str
) -> None:
    assert install_hint(BCC, os_release) == command


def test_an_unknown_distribution_gets_all_the_names() -> None:
    hint = install_hint(UAPI, {"ID": "unheard-of"})
    assert all(package in hint for package in UAPI.values())


def test_missing_bcc_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    (check,) = run_checks([probe("BCC")])
    assert not check.ok
    assert "bcc" in check.detail
    assert any(package in check.remedy for package in BCC.values())


def test_missing_headers_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_root: Path | None = None) -> UapiHeaders:
        raise HeadersMissing("no kernel UAPI headers")

    monkeypatch.setattr(UapiHeaders, "find", find)
    (check,) = run_checks([probe("UAPI headers")])
    assert (check.ok, check.detail) == (False, "no kernel UAPI headers")
    assert any(package in check.remedy for package in UAPI.values())


def test_a_missing_bpffs_says_how_to_mount_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cubelet.bpf.fs.is_bpffs", lambda _path: False)
    (check,) = run_checks([probe("bpffs")])
    assert (check.ok, check.remedy) == (False, "mount -t bpf bpf /sys/fs/bpf")


def test_a_refused_namespace_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CLONE_NEWNET", 1)  # unknown to unshare(2)
    (check,) = run_checks([probe("veth")])
    assert (check.ok, "namespace" in check.detail) == (False, True)
