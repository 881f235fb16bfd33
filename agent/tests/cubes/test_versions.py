"""Cubes of other releases than the agent's: older ones work, newer ones are told with a remedy."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path

import pytest
from packaging.version import Version

from cubelet.composer.composition import Chain, compose
from cubelet.cubes.discovery import Discovery, discover, unmet_requirement
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import ABI, Cube, Settings
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP
from cubelet_hooks.objects import Change, Pod

# As its author wrote it when a cube had nothing but these: no settings, maps, places, metrics.
OLD = """
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl

class Old(Cube):
    kind = "old"
    abi = 1
    inward = frozenset({"pod"})

@hookimpl
def cubelet_cubes():
    return [Old]
"""
C = '#include "cubelet.h"\n'

Install = Callable[..., Discovery]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Leaves what pip does of a package, and gives what is discovered of it alone."""

    def make(name: str, code: str, *requires: str) -> Discovery:
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, f"cubelet_{name}", raising=False)
        package = tmp_path / f"cubelet_{name}"
        (package / "bpf").mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        (package / f"bpf/{name}.bpf.c").write_text(C)
        info = tmp_path / f"cubelet_{name}-0.3.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: cubelet-{name}", "Version: 0.3"]
        needs = [f"Requires-Dist: {each}" for each in requires]
        (info / "METADATA").write_text("\n".join([*lines, *needs, ""]))
        points = f"[{ENTRY_POINT_GROUP}]\n{name} = cubelet_{name}\n"
        (info / "entry_points.txt").write_text(points)
        found: list[EntryPoint] = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
        assert isinstance(found[0].dist, Distribution)
        return discover(found)

    yield make
    for name in [each for each in sys.modules if each in ("cubelet_old", "cubelet_new")]:
        del sys.modules[name]


def reason(discovery: Discovery) -> str:
    (plugin,) = discovery.plugins
    return plugin.reason


def test_a_cube_that_lacks_what_came_later_works(install: Install) -> None:
    found = install("old", OLD, "cubelet-hooks>=0.1,<0.2", "msgspec")
    assert reason(found) == ""
    chain = Chain(core=("outlet",), stacks={"pod": ("old",)})
    made = compose(chain, {**found.cubes, "outlet": Outlet})
    (old,) = made.stacks["pod"]
    assert (old.per_packet, old.metrics, old.event, old.placement) == (frozenset(), (), None, ())
    assert list(old.units(Change.between(None, Pod("a", "b")), None)) == []  # type: ignore[arg-type]


def test_every_attribute_but_the_kind_has_a_default() -> None:
    public = {name for name in Cube.__annotations__ if not name.startswith("_")}
    assert {name for name in public if not hasattr(Cube, name)} == {"kind"}
    assert Settings() == Settings()


@pytest.mark.parametrize(
    ("requires", "told"),
    [
        (["cubelet-hooks>=0.2,<0.3"], "is built for cubelet-hooks <0.3,>=0.2, installed is 0.1.0"),
        (["Cubelet_Hooks <0.1"], "is built for cubelet-hooks <0.1, installed is 0.1.0"),
        (["msgspec", "cubelet-hooks!=0.1.0"], "installed is 0.1.0"),
    ],
)
def test_a_release_that_is_not_allowed_is_told_before_anything_is_imported(
    install: Install, requires: list[str], told: str
) -> None:
    found = install("old", "raise SystemError('it was imported')", *requires)
    assert told in reason(found)
    assert "remedy: install a release of cubelet-old that allows it" in reason(found)
    assert found.cubes == {}


@pytest.mark.parametrize(
    "requires",
    [
        (),
        ("cubelet-hooks",),
        ("cubelet-hooks~=0.1.0",),
        ("cubelet[testkit]>=7; extra == 'test'", "cubelet-hooks>=0.1"),
        ("cubelet-hooks>=7; python_version < '3'",),
        ("something >< odd",),
    ],
)
def test_other_requirements_stand_in_nobodys_way(requires: tuple[str, ...]) -> None:
    assert unmet_requirement("cubelet-old", requires) == ""


def test_a_newer_contract_in_c_is_told_with_the_remedy(install: Install) -> None:
    found = install("old", OLD.replace("abi = 1", f"abi = {ABI + 1}"))
    assert f"old is built for ABI {ABI + 1}, this cubelet has {ABI}" in reason(found)
    assert "remedy: " in reason(found)


def test_a_hook_of_a_newer_contract_may_be_missing_if_it_says_so(install: Install) -> None:
    newer = "\n@hookimpl({})\ndef cubelet_foreseen(whatever): ...\n"
    found = install("old", OLD + newer.format("optionalhook=True"))
    assert reason(found) == ""
    assert set(found.cubes) == {"old"}
    found = install("new", OLD.replace('"old"', '"new"') + newer.format(""))
    assert "unknown hook 'cubelet_foreseen'" in reason(found)
    assert found.cubes == {}


def test_attributes_of_a_newer_contract_are_passed_over(install: Install) -> None:
    found = install("old", OLD.replace("    abi", "    foreseen = ('anything',)\n    abi"))
    assert set(found.cubes) == {"old"}


def test_c_and_python_agree_on_the_abi() -> None:
    header = resources.files("cubelet_hooks").joinpath("include/cubelet/base.h").read_text()
    assert re.findall(r"^#define CUBELET_ABI (\d+)$", header, re.MULTILINE) == [str(ABI)]


def test_the_built_in_cubes_name_a_range_that_ends() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        assert point.dist is not None
        (needed,) = (each for each in point.dist.requires or () if "cubelet-hooks" in each)
        assert unmet_requirement(point.dist.name, [needed]) == ""
        far = str(Version("99"))
        assert f"<{far}" not in needed
        assert "<" in needed


OBSERVER = """
from cubelet_hooks.hookspecs import hookimpl

seen = []

@hookimpl
def cubelet_changed(change):
    seen.append(change)
    {fails}

@hookimpl
def cubelet_composed(instances):
    seen.append(instances)

@hookimpl
def cubelet_cubes():
    return []
"""


@pytest.mark.parametrize("failing", ["a", "b"])
def test_observers_are_told_and_one_that_fails_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    points = []
    for name in "ab":
        module = f"observer_{name}_when_{failing}_fails"
        fails = "raise RuntimeError('no')" if name == failing else ""
        (tmp_path / f"{module}.py").write_text(OBSERVER.format(fails=fails))
        points.append(EntryPoint(name, module, ENTRY_POINT_GROUP))
    found = discover(points)
    change = Change.between(None, Pod("default", "web"))
    found.observe("cubelet_changed", change=change)
    # An argument that an observer has no use for, or did not know of, may be left out.
    found.observe("cubelet_composed", mode="fused", instances=["old0"])
    for point in points:
        assert point.load().seen == [change, ["old0"]]
