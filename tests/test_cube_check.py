"""`cubelet cube check`: the built-in cubes pass, and each check notices what it is for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cubelet.bpf.fs import BPFFS
from cubelet.check import calls, limits, workbench
from cubelet.check.ctokens import declared, words
from cubelet.check.findings import Finding, Report
from cubelet.check.registry import CHECKS, Check
from cubelet.check.runner import check
from cubelet.cli.commands import app
from cubelet.cubes.discovery import discover
from cubelet.scaffold.render import render
from cubelet.scaffold.write import write_package

BUILT_IN = ("bridge", "firewall", "lbrp", "nat", "router")
CHEAP = tuple(each for each in CHECKS if not each.compiled)
CUBE, C, PROJECT = "src/cubelet_dscp/cube.py", "src/cubelet_dscp/bpf/dscp.bpf.c", "pyproject.toml"

KIND = '    kind: ClassVar[str] = "dscp"'
TICK = "    def on_tick(self, context: object) -> None: ...\n\n"

Change = tuple[str, str, str]
"""A file, a text in it, and what takes its place."""
Broken = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """Makes the folder of a generated cube in which some texts are others."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(*changes: Change) -> Path:
        files = dict(render("dscp", ("pod",)))
        for file, old, new in changes:
            assert files[file].count(old) >= 1, (file, old)
            files[file] = files[file].replace(old, new)
        write_package(tmp_path / "cubelet-dscp", files, force=True)
        return tmp_path / "cubelet-dscp"

    yield make
    for name in [each for each in sys.modules if each.startswith("cubelet_dscp")]:
        del sys.modules[name]


def only(name: str) -> list[Check]:
    return [each for each in CHECKS if each.name == name]


def report(folder: Path | str, checks: Any = CHEAP) -> Report:
    (found,) = check(str(folder), checks)
    return found


def finding(folder: Path, checks: Any) -> Finding:
    """The one finding that there is."""
    found = [each for _, each in report(folder, checks).findings]
    assert len(found) == 1, found
    assert found[0].remedy
    return found[0]


def line_of(file: Path, text: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_built_in_cubes_pass_what_needs_no_kernel(kind: str) -> None:
    found = report(kind)
    assert [(each.check, each.state) for each in found.results] == [
        (each.name, "passed") for each in CHEAP
    ], list(found.findings)


@pytest.mark.parametrize("kind", ["firewall", "nat"])
def test_built_in_cubes_pass_as_programs(kind: str) -> None:
    found = CliRunner().invoke(app, ["cube", "check", kind, "-o", "json"])
    assert found.exit_code == 0, found.output
    (document,) = json.loads(found.stdout)
    assert {each["state"] for each in document["checks"]} == {"passed"}
    counts = {(each["composition"], each["program"]) for each in document["programs"]}
    places = ("alone", "default stacks")
    modes = [f"{mode}, {where}" for mode in ("fused", "tailcall") for where in places]
    assert {name for name, _ in counts} == set(modes)
    assert {(name, "cubelet_pod") for name in modes} <= counts
    assert all(each["instructions"] > 0 for each in document["programs"])


def test_a_new_cube_passes_without_being_installed(package: Broken) -> None:
    found = CliRunner().invoke(app, ["cube", "check", str(package())])
    assert found.exit_code == 0, found.output
    assert "dscp" not in discover().cubes
    assert found.stdout.count("passed") == len(CHECKS)
    assert "fused, default stacks" in found.stdout


METADATA = [
    ((CUBE, "abi: ClassVar[int] = 1", "abi: ClassVar[int] = 9"), "built for ABI 9"),
    ((PROJECT, 'dscp = "cubelet_dscp.cube"', 'other = "cubelet_dscp.cube"'), "is called other"),
    ((PROJECT, 'version = "0.1.0"', 'version = "new"'), "'new' is no version"),
    ((PROJECT, 'dependencies = ["cubelet-hooks>=0.1,<0.2"]', ""), "no range of releases"),
    ((PROJECT, "cubelet-hooks>=0.1,<0.2", "cubelet-hooks>=7,<8"), "installed is 0.1.0"),
    ((CUBE, 'Placement("pod")', 'Placement("host")'), "it has nothing to do there"),
    ((CUBE, 'Placement("pod")', 'Placement("door")'), "that is no port class"),
    ((CUBE, 'Placement("pod")', 'Placement("pod", "inward")'), "it sees nothing of that class"),
    ((CUBE, '{"dscp": "seen"}', '{"dscp": "sean"}'), "the map 'sean', which is not declared"),
    ((CUBE, 'Map("limits"', 'Map("limit"'), "a map and a record are both called limit in C"),
    (
        (CUBE, KIND, f"{KIND}\n    every: ClassVar[float] = 1.0"),
        "there is no on_tick",
    ),
    (
        (CUBE, KIND, f"{KIND}\n    punts: ClassVar[bool] = True"),
        "there is no on_packet",
    ),
    ((CUBE, KIND, f"{TICK}{KIND}"), "on_tick is never called: every is not set"),
]


@pytest.mark.parametrize(("change", "message"), METADATA, ids=lambda each: str(each)[:40])
def test_metadata(package: Broken, change: Change, message: str) -> None:
    found = finding(package(change), only("metadata"))
    assert message in found.message
    assert found.file.endswith(change[0])
    assert found.line or "dependencies" in change[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((CUBE, "max_dscp: int = 47", "max_dscp: int"), "max_dscp has no default"),
        ((CUBE, "forbid_unknown_fields=True", "forbid_unknown_fields=False"), "are not refused"),
        ((CUBE, '"max_pods"),', '"pods"),'), "the size of the map limits is the setting 'pods'"),
        (
            (CUBE, "max_dscp: int = 47", "max_dscp: int = 47\n    spans: tuple[range, ...] = ()"),
            "the setting spans is a range, which cannot be read from YAML",
        ),
        ((CUBE, "max_dscp: int = 47", "max_dscp: int = 99"), "must be from 0 to 63, not 99"),
        (
            (CUBE, "(cube.Settings, frozen", "(cube.base.msgspec.Struct, frozen"),
            "is no settings model",
        ),
    ],
)
def test_settings(package: Broken, change: Change, message: str) -> None:
    found = finding(package(change), only("settings"))
    assert message in found.message
    assert found.file.endswith(CUBE)
    assert found.line


def test_names_at_file_scope(package: Broken) -> None:
    text = (
        "\n#define LIMIT 3\nenum way { UP, dscp_down };\nstatic int seen;\nint dscp_fine(int a);\n"
    )
    folder = package((C, '#include "cubelet.h"\n', f'#include "cubelet.h"\n{text}'))
    found = [each for _, each in report(folder, only("names")).findings]
    assert [(each.message.split()[0], each.line) for each in found] == [
        (name, line_of(folder / C, line))
        for name, line in [
            ("LIMIT", "define LIMIT"),
            ("way", "enum way"),
            ("UP", "enum way"),
            ("seen", "static int seen"),
        ]
    ]
    assert found[0].remedy == "call it such as DSCP_LIMIT"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((C, '#include "cubelet.h"', '#include "cubelet.h"\n#include "mine.h"'), "mine.h is not"),
        ((C, "__u16 dscp_packet", "__u16 dscp_packets"), "there is no function dscp_packet"),
        ((C, "__u32 dscp_dscp", "__u32 dscp_inward"), "dscp_inward is never called"),
        ((CUBE, 'kind: ClassVar[str] = "dscp"', 'kind: ClassVar[str] = "dscpx"'), ""),
    ],
)
def test_names_that_mean_something(package: Broken, change: Change, message: str) -> None:
    found = report(package(change), only("names"))
    if message:
        assert message in next(found.findings)[1].message
    else:  # the C file of a kind is called after it, so there is none
        assert found.results[0].state == "not checked"


def test_names_in_all_kinds_of_c() -> None:
    source = """
/* int comment; */ // int other;
#include "cubelet.h"
#define ONE(x) \\
	two(x)
struct three { int inner; };
typedef struct { int a; } four;
static __always_inline int five(struct ten *p) { int local = "int six;"[0]; return local; }
static struct ten seven = { .x = 8 }, *eight[2];
struct ten;
union nine { int b; } __attribute__((packed));
enum { ELEVEN = 1 << 3, TWELVE };
struct ten *thirteen(void);
"""
    found = [(each.text, each.line) for each in declared(source)]
    assert found == [
        *(("ONE", 4), ("three", 6), ("four", 7), ("five", 8), ("seven", 9), ("eight", 9)),
        *(("ten", 10), ("nine", 11), ("ELEVEN", 12), ("TWELVE", 12), ("thirteen", 13)),
    ]
    assert "six" not in {each.text for each in words(source)}


HELPERS = [
    ("return bpf_clone_redirect(skb, 1, 0);", "bpf_clone_redirect", "KIND_mirror()"),
    ("return bpf_redirect(1, 0);", "bpf_redirect", "the composer redirects"),
    ("return bpf_redirect_neigh(1, 0, 0, 0);", "bpf_redirect_neigh", "the composer redirects"),
    ("bpf_probe_write_user(0, 0, 0); return 0;", "bpf_probe_write_user", "machine's memory"),
    ("bpf_override_return(0, 0); return 0;", "bpf_override_return", "nothing else of the kernel"),
    ("#define DSCP_SAY bpf_trace_printk\n\treturn 0;", "bpf_trace_printk", "KIND_emit()"),
    ("return (long)&bpf_tail_call;", "bpf_tail_call", "cubelet_next()"),
    ("return bpf_sock_ops_cb_flags_set(0, 0);", "bpf_sock_ops_cb_flags_set", "none of HELPERS"),
]


@pytest.mark.parametrize(("line", "helper", "remedy"), HELPERS)
def test_helpers_by_name(package: Broken, line: str, helper: str, remedy: str) -> None:
    folder = package((C, "return 0;\n}\n", f"{line}\n}}\n"))
    found = finding(folder, only("helpers"))
    assert found.message == f"{helper} is no helper that a cube may call"
    assert remedy in found.remedy
    assert (found.file, found.line) == (str(folder / C), line_of(folder / C, helper))


def test_helpers_that_may_be_called_and_what_only_looks_like_one(package: Broken) -> None:
    fine = """struct bpf_sock *sock = 0; /* bpf_redirect() */
	__u64 now = bpf_ktime_get_ns() + bpf_jiffies64();
	char text[] = "bpf_redirect()";
	return bpf_htons(now) && sock && sock->bpf_redirect && text[0];"""
    folder = package((C, "return 0;\n}\n", f"{fine}\n}}\n"))
    assert not list(report(folder, only("helpers")).findings)


@pytest.mark.parametrize(
    ("number", "function", "helper"),
    [(13, "packet", "bpf_clone_redirect"), (13, "inward", "bpf_clone_redirect")],
)
def test_helpers_by_number(
    package: Broken, alone: None, number: int, function: str, helper: str
) -> None:
    """A cast of a number is a call without a name: the compiled program shows it."""
    call = f"((long (*)(void *, int, __u64)){number})(skb, 1, 0);"
    changes: list[Change] = [(C, "\treturn 0;\n}\n", f"\t{call}\n\treturn 0;\n}}\n")]
    if function == "inward":
        inward = (
            "\nstatic __always_inline int dscp_inward(struct __sk_buff *skb, "
            f"struct cubelet_pkt *pkt)\n{{\n\t{call}\n\treturn cubelet_next(pkt);\n}}\n"
        )
        changes = [(C, "\treturn 0;\n}\n", f"\treturn 0;\n}}\n{inward}")]
        asked = 'per_packet: ClassVar[frozenset[str]] = frozenset({"pod"})'
        changes.append((CUBE, asked, f"{asked}\n    inward = per_packet"))
    folder = package(*changes)
    assert not list(report(folder, only("helpers")).findings)
    found = finding(folder, only("calls"))
    assert f"calls {helper}, which a cube may not call" in found.message
    assert "KIND_mirror()" in found.remedy
    assert found.file == str(folder / C)


@pytest.mark.parametrize(
    "header",
    [
        "#define __BPF_FUNC_MAPPER(FN)\t\\\n\tFN(unspec),\t\\\n\tFN(map_lookup_elem),\t\\\n",
        "\tFN(unspec, 0, ##ctx)\t\\\n\tFN(map_lookup_elem, 1, ##ctx)\t\\\n",
    ],
    ids=["before 6.1", "since"],
)
def test_calls_of_all_kinds(header: str) -> None:
    def call(kind: int, number: int) -> bytes:
        return bytes([0x85, kind << 4, 0, 0]) + number.to_bytes(4, "little")

    constant = bytes([0xB7, 0, 0, 0, 0x85, 0, 0, 0])
    code = call(0, 1) + call(1, 7) + constant + call(2, 99) + call(0, 500)
    found = calls.calls(code, calls.helper_names(header))
    assert found == {"bpf_map_lookup_elem", "helper 500", "kernel function 99"}


def test_a_cube_calls_what_it_may(package: Broken, alone: None) -> None:
    (result,) = report(package(), only("calls")).results
    assert (result.state, result.reason) == ("passed", "")


@pytest.mark.parametrize(
    ("change", "message", "place"),
    [
        (
            (C, "DSCP_REASON_MARKED", "DSCP_REASON_OTHER"),
            "DSCP_REASON_OTHER is declared nowhere",
            (C, "DSCP_REASON_OTHER"),
        ),
        (
            (C, "DSCP_REASON_MARKED", "0"),
            "the reason marked is never given",
            (CUBE, "    reasons: "),
        ),
        ((CUBE, '"its DSCP is above the limit of where it entered"', '""'), "no text", None),
    ],
)
def test_reasons(package: Broken, change: Change, message: str, place: Any) -> None:
    folder = package(change)
    found = [each for _, each in report(folder, only("reasons")).findings]
    assert message in found[0].message
    if place:
        file = folder / place[0]
        assert (found[0].file, found[0].line) == (str(file), line_of(file, place[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((CUBE, 'Sample("packets"', 'Sample("frames"'), "the metric frames, which is declared"),
        ((CUBE, "(str(key.index),))", "())"), "a sample of packets with 0 labels, which has 1"),
        ((CUBE, "def collect(", "def gather("), "nothing collects them"),
        (
            (CUBE, 'yield Sample("packets", counter.packets, (str(key.index),))', "yield from ()"),
            "the metric packets is declared, but no Sample is made of it",
        ),
    ],
)
def test_metrics(package: Broken, change: Change, message: str) -> None:
    assert message in report(package(change), only("metrics")).results[0].findings[0].message


COMPLAIN = 'yield __import__("cubelet_hooks.cube").cube.Complaint("Pod", unit[-1], "{}", "no")'
PLANS = [
    (
        "if change.kind in (Pod.kind, Port.kind)",
        "if change.kind == Pod.kind",
        "and lacks 1",
    ),
    (
        "if pod is None or port is None:\n            return\n",
        "assert port\n        assert pod\n",
        "plan raised AssertionError",
    ),
    ("Limit(int(text))", "PortKey(1)", "limits holds PortKey and Limit, not PortKey and PortKey"),
    ('Entry("limits"', 'Entry("seen"', "an entry of seen, which is not planned"),
    ("Limit(int(text))", "Limit(300)", "an entry of limits does not fit"),
    (
        '"max_pods"),',
        '"max_pods", concerns=lambda key, value: "everybody"),',
        "concerns raised TypeError: 'e' is no address, network, PodsOf or EVERYTHING",
    ),
    (
        '"MAX_DSCP": self.settings.max_dscp',
        '"MAX_DSCP": len(view.pods) % 64',
        "a change of kind Pod altered defines or needed_on",
    ),
    (
        '"MAX_DSCP": self.settings.max_dscp',
        '"MAX_DSCP": __import__("time").time_ns()',
        "defines gives",
    ),
    (
        'text = pod.annotations.get(ANNOTATION, "")',
        'text = pod.labels.setdefault("seen", "46")',
        "planning has changed the view",
    ),
    (
        "yield Entry",
        f"{COMPLAIN.format('no word')}\n            yield Entry",
        "is no word in CamelCase",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), PLANS)
def test_plans(package: Broken, old: str, new: str, message: str) -> None:
    # Every attached pod has a limit, so that plans have something to say of a few of them.
    always = (CUBE, 'pod.annotations.get(ANNOTATION, "")', '"46"')
    changes = [always] if "ANNOTATION" not in old else []
    folder = package(*changes, (CUBE, old, new))
    found = finding(folder, only("plans"))
    assert message in found.message
    assert found.file == str(folder / CUBE)
    assert found.line


def test_plans_may_complain(package: Broken) -> None:
    changes = (
        (CUBE, 'pod.annotations.get(ANNOTATION, "")', '"46"'),
        (CUBE, "yield Entry", f"{COMPLAIN.format('TooMuch')}\n            yield Entry"),
    )
    assert not list(report(package(*changes), only("plans")).findings)


def test_a_plan_that_raises_is_told_at_its_line(package: Broken) -> None:
    folder = package(
        (CUBE, 'pod.annotations.get(ANNOTATION, "")', '"46"'),
        (CUBE, "yield Entry", "raise KeyError(unit)\n            yield Entry"),
    )
    found = finding(folder, only("plans"))
    assert "plan raised KeyError" in found.message
    assert found.line == line_of(folder / CUBE, "raise KeyError(unit)")


ENDLESS = [
    ("yield Entry", "while True:\n                pass\n            yield Entry", "while True"),
    ("yield Entry", "while True:\n                yield Entry", "def plan"),
    ("yield Entry", "__import__('time').sleep(1e6)\n            yield Entry", "sleep(1e6)"),
    (
        "yield Entry",
        """while True:
                try:
                    sum(range(999))
                except Exception:
                    pass
            yield Entry""",
        "",
    ),
]


@pytest.mark.parametrize(("old", "new", "place"), ENDLESS)
def test_a_plan_without_end_is_a_finding_at_its_line(
    package: Broken, monkeypatch: pytest.MonkeyPatch, old: str, new: str, place: str
) -> None:
    monkeypatch.setattr(limits, "MOST", 1000)
    always = (CUBE, 'pod.annotations.get(ANNOTATION, "")', '"46"')
    folder = package(always, (CUBE, old, new))
    found = report(folder, [*only("plans"), *only("programs")])
    ((check_name, told),) = found.findings
    assert check_name == "plans"
    assert "plan does not end: it " in told.message
    if place:
        assert (told.file, told.line) == (str(folder / CUBE), line_of(folder / CUBE, place))
    programs = found.results[1]
    assert (programs.state, programs.reason) == ("not checked", "plan does not end")


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("import", "while True:\n    pass\nCODE_POINTS = 64"),
        ("cubelet_cubes", "CODE_POINTS = 64"),
    ],
)
def test_a_package_that_does_not_end_is_a_finding(package: Broken, name: str, new: str) -> None:
    forever = ("    return [DscpCube]", "    return iter(lambda: DscpCube, None)")
    folder = package((CUBE, "CODE_POINTS = 64", new), (CUBE, *forever))
    (told,) = [each for _, each in report(folder).findings]
    assert f"it cannot be loaded: {name} does not end: it " in told.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("CODE_POINTS = 64", "CODE_POINTS = 64", ""),
        ('"MAX_DSCP": self.settings.max_dscp', '"MAX_DSCP": "high"', "defines gives"),
        (
            "if pod is None or port is None",
            """[str(a).split('.')[3] for each in view.pods.values() for a in each.ips]
        if pod is None or port is None""",
            "plan raised IndexError",
        ),
    ],
)
def test_objects_of_both_families_are_among_the_samples(
    package: Broken, old: str, new: str, message: str
) -> None:
    found = [each for _, each in report(package((CUBE, old, new)), only("plans")).findings]
    assert [message in each.message for each in found] == ([True] if message else [])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compositions without the default stacks, which take longest to verify."""
    monkeypatch.setattr(workbench, "default", lambda *_: iter(()))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("return missing;", "use of undeclared identifier 'missing'"),
        ("return ((__u8 *)counter)[1] + limit->dscp;", "refused by the verifier"),
    ],
)
def test_programs(package: Broken, alone: None, new: str, message: str) -> None:
    folder = package((C, "return 0;\n}\n", f"{new}\n}}\n"))
    found = [each for _, each in report(folder, only("programs")).findings]
    assert [each.message.partition(":")[0] for each in found] == ["fused, alone", "tailcall, alone"]
    assert all(message in each.message for each in found)
    assert {(each.file, each.line) for each in found} == {
        (str(folder / C), line_of(folder / C, new))
    }


INWARD = """
CUBELET_INLINE int dscp_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return pkt->hdr.tuple.protocol == IPPROTO_UDP ? cubelet_drop(pkt, 0) : cubelet_next(pkt);
}
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(C, "return DSCP_REASON_MARKED", "return 2000")], "the reason 2000, which is nobody's"),
        (
            [
                (C, "return 0;\n}\n", f"return 0;\n}}\n{INWARD}"),
                (CUBE, "    per_packet:", '    inward = frozenset({"pod"})\n    per_packet:'),
            ],
            "dropped without a reason",
        ),
    ],
)
def test_packets(package: Broken, alone: None, changes: list[Change], message: str) -> None:
    found = [each for _, each in report(package(*changes), only("packets")).findings]
    assert message in found[0].message
    assert found[0].line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((CUBE, "NAMES.get(key.index", "NAMES.name(key.index"), "rows raised AttributeError"),
        ((CUBE, '"packets": counter', 'f"packets{key.index}": counter'), "different columns"),
        ((CUBE, 'Sample("packets", ', 'Sample("packet" + "", '), "of no declared metric"),
        ((CUBE, "(str(key.index),)", "(key.number,)"), "collect raised AttributeError"),
    ],
)
def test_answers(package: Broken, alone: None, change: Change, message: str) -> None:
    folder = package(change)
    found = finding(folder, [*only("packets"), *only("answers")])
    assert message in found.message
    assert found.file == str(folder / CUBE)
    assert found.line


OPENED = """
from cubelet.bpf.constants import MapType as T
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
KEPT = []

class DscpCube(Cube):"""


def test_leftovers(package: Broken, alone: None) -> None:
    create = 'KEPT.append(BpfMap.create("kept", MapLayout(T.HASH, 4, 4, 1)))'
    folder = package(
        (CUBE, "\nclass DscpCube(Cube):", OPENED),
        (CUBE, 'return {"MAX', f'{create}\n        return {{"MAX'),
    )
    found = finding(folder, only("leftovers"))
    assert "left open after the cube is gone: map" in found.message
    for each in sys.modules["cubelet_dscp.cube"].KEPT:
        each.close()


def test_pins_are_leftovers(package: Broken, alone: None) -> None:
    pin = BPFFS / f"dscp-{os.getpid()}"
    lines = [
        'with BpfMap.create("kept", MapLayout(T.HASH, 4, 4, 1)) as made:',
        f"            made.pin({str(pin)!r}, replace=True)",
    ]
    folder = package(
        (CUBE, "\nclass DscpCube(Cube):", OPENED),
        (CUBE, 'return {"MAX', "\n".join([*lines, '        return {"MAX'])),
    )
    try:
        assert (
            f"left pinned after the cube is gone: {pin}"
            in finding(folder, only("leftovers")).message
        )
    finally:
        pin.unlink(missing_ok=True)


def test_what_cannot_be_loaded_is_a_finding_at_its_line(package: Broken) -> None:
    folder = package((CUBE, "CODE_POINTS = 64", "CODE_POINTS = 64 / 0"))
    found = CliRunner().invoke(app, ["cube", "check", str(folder), "-o", "json"])
    assert found.exit_code == 1
    (document,) = json.loads(found.stdout)
    (told,) = document["checks"][0]["findings"]
    assert "ZeroDivisionError" in told["message"]
    assert (told["file"], told["line"]) == (str(folder / CUBE), line_of(folder / CUBE, "64 / 0"))


def test_without_root_the_rest_is_checked_and_the_exit_status_says_so(
    package: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = CliRunner().invoke(app, ["cube", "check", str(package())])
    assert found.exit_code == 2
    assert "run it as root" in found.stdout
    assert found.stdout.count("passed") == len(CHEAP)


@pytest.mark.parametrize("what", ["no_such_kind", "/proc/self"])
def test_what_is_no_cube_cannot_be_checked(what: str) -> None:
    found = CliRunner().invoke(app, ["cube", "check", what])
    assert found.exit_code == 2
    assert "error: " in found.stderr
    assert "Traceback" not in found.output


def test_what_no_exception_can_stop_ends_the_check_at_its_place() -> None:
    stubborn = (
        "from cubelet.check.limits import ended\n"
        "with ended(cpu=0.1, real=0.1, last=0.5):\n"
        "    while True:\n"
        "        try:\n"
        "            while True: pass\n"
        "        except BaseException: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", stubborn], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b'File "<string>", line 5' in done.stderr


EVERY = "every: ClassVar[float] = 1.0"
GONE = 'gone: ClassVar[frozenset[str]] = frozenset({"Pod"})'
ENDED = "ended: ClassVar[int] = 9"


@pytest.mark.parametrize(
    ("name", "declared", "body", "message"),
    [
        ("on_tick(self, context", EVERY, "raise KeyError(7)", "on_tick raised KeyError: 7"),
        ("on_tick(self, context", EVERY, "__import__('time').sleep(1.1)", "does nothing else"),
        (
            "on_tick(self, context",
            EVERY,
            "context.table('limits').clear()",
            "on_tick raised TypeError: dscp0_limits holds what",
        ),
        ("on_gone(self, gone, context", GONE, "gone.nodename", "on_gone raised AttributeError"),
        ("on_ended(self, flow, context", ENDED, "flow.fields.x", "on_ended raised AttributeError"),
    ],
)
def test_callbacks(package: Broken, name: str, declared: str, body: str, message: str) -> None:
    method = f"    def {name}: Any) -> None:\n        {body}\n\n"
    imported = ("from typing import ClassVar", "from typing import Any, ClassVar")
    folder = package((CUBE, *imported), (CUBE, KIND, f"{method}{KIND}\n    {declared}"))
    checks = [each for each in CHECKS if each.name in ("packets", "callbacks")]
    found = [each for _, each in report(folder, checks).findings]
    assert found
    assert all(message in each.message for each in found)
    assert found[0].line
