"""What is generated for cubes is what docs/contract.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cubelet.composer.composition import Chain, Facts, compose
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.source import write_source
from cubelet.state.cluster import State
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U32, Record

DOCS = Path(__file__).parents[2] / "docs" / "contract.md"
PROVIDE = Path(__file__).parents[2] / "agent/src/cubelet/composer/bpf/provide.h"


class RecordName(Record):
    """Any."""

    number: U32


class Full(Cube):
    """Asks for everything."""

    kind = "full"
    inward = outward = per_packet = frozenset({"pod"})
    reasons = (Reason("name", "any"),)
    maps = (Map("name", MapType.ARRAY, Index, RecordName, 1),)
    flow_fields = RecordName
    event = RecordName
    punts = True

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "meter.bpf.c"

    def defines(self, view):
        return {"NAME": 1}


def as_documented(name):
    """An identifier of the instance as the page writes it."""
    for given in ("FULL0", "full0"):
        name = name.replace(given, "KIND", 1)
    return name


@pytest.fixture
def generated(cubelet_network):
    chain = Chain(core=("outlet",), stacks={"pod": ("full",)})
    made = compose(chain, {"outlet": Outlet, "full": Full})
    facts = made.facts_of(State())
    source = write_source(
        made.specialised(Facts(facts.defines, {})),
        Core("cubelet", CoreSettings()),
        cubelet_network.local,
        250,
    )
    return source.files["cubelet/generated.h"], source.files["cubelet/provided.h"]


def test_every_identifier_of_a_cube_is_documented(generated):
    page = DOCS.read_text()
    header, provided = generated
    names = set(re.findall(r"^(?:#define|struct) (full0_\w+|FULL0_\w+)", header, re.MULTILINE))
    assert re.findall(r"^cubelet_provide_(\w+)", provided, re.MULTILINE) == [
        "fields",
        "events",
        "packets",
    ]
    made = re.findall(r"\binstance##(\w+)", PROVIDE.read_text())
    names |= {f"full0{each}" for each in made}
    assert len(names) >= 16
    missing = [name for name in sorted(names) if not re.search(rf"\b{as_documented(name)}\b", page)]
    # An index is the core's record, generated for the cube's maps like its own.
    assert missing == ["full0_index"]


def test_every_constant_is_documented(generated):
    page = DOCS.read_text()
    header, _ = generated
    names = re.findall(r"^#define (CUBELET_\w+)", header, re.MULTILINE)
    families = [each.removesuffix("...") for each in re.findall(r"CUBELET_\w+\.\.\.", page)]
    own = {"CUBELET_CHECK_TUNNEL", "CUBELET_CHECK_MAC", "CUBELET_TRACE", "CUBELET_TRANSLATING"}
    missing = [
        name
        for name in names
        if not re.search(rf"\b{name}\b", page)
        and not name.startswith(tuple(families))
        and name not in own
        and not re.search(rf"^#define {name}\(STAGE\)", header, re.MULTILINE)
        and not name.startswith("CUBELET_EARLY")
    ]
    assert missing == []


def test_what_is_documented_of_a_cube_is_generated_or_declared(generated):
    header, _ = generated
    known = {as_documented(n) for n in re.findall(r"\b(?:full0|FULL0)_\w+", header)} | {
        f"KIND{each}" for each in re.findall(r"\binstance##(\w+)", PROVIDE.read_text())
    }
    known |= {f"KIND_{name}" for name in ("inward", "outward", "packet", "early", "admits")}
    # Names that the page makes up: of a map, a record, a constant and a reason.
    found = set(re.findall(r"\bKIND_\w+", DOCS.read_text()))
    assert found - known == set()
